"""Traces of a real server, as a collector gets them and as an upstream is told of them."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from servery.telemetry.traces import conventions
from tests.e2e.collector import Collector, Seen, collecting, tree
from tests.e2e.recording_upstream import COUNTS, Recorder, recording
from tests.e2e.server_process import ServerProcess, eventually

FILE = """
server: {{ port: 0, api_keys: [sk-client], admin_keys: [sk-admin] }}
telemetry: {{ log_format: json, traces: {{ endpoint: "{collector}", headers: {{ x-collector-key: secret }}, service: kitchen, sample: {sample} }} }}
deployments:
  here: {{ kind: embedded, model: amuse-draft, engine: {{ threads: 1, kv_memory: 16MiB }} }}
  bad: {{ kind: openai, url: "{upstream}/v1", model: "503", api_key: k, price: free }}
  good: {{ kind: vllm, url: "{upstream}/v1", model: well, price: {{ input: 1, output: 2 }} }}
  claude: {{ kind: anthropic, url: "{upstream}", model: claude-x, api_key: k, price: free }}
models:
  local: {{ deployments: [here] }}
  flaky: {{ deployments: [bad, good], place: first, slo: {{ ttft: 1m, tpot: 1m }} }}
  plain: {{ deployments: [good] }}
  broken: {{ deployments: [bad], retry: {{ attempts: 1 }} }}
  rescued: {{ deployments: [bad], retry: {{ attempts: 1 }}, fallbacks: {{ error: [flaky] }} }}
  claude: {{ deployments: [claude], retry: {{ attempts: 1 }} }}
"""
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=opaque,other=1"}
OURS = re.compile(r"(http|gen_ai|error|server|servery)\..+")


def body(model: str, **fields: Any) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 6,
        "temperature": 0,
        **fields,
    }


def spans(server: ServerProcess, what: str) -> float:
    """How many spans the metrics say were exported, or dropped, or are waiting."""
    text = server.ask("GET", "/metrics", authorization="Bearer sk-admin").body.decode()
    name = "spans_waiting" if what == "waiting" else f'spans_total{{result="{what}"}}'
    (line,) = [line for line in text.splitlines() if line.startswith(f"servery_trace_{name} ")]
    return float(line.rsplit(" ", 1)[1])


@dataclass
class Stage:
    server: ServerProcess
    upstream: Recorder
    collector: Collector

    def ask(self, asked: Any, status: int = 200, key: str = "sk-client", **headers: str) -> None:
        named = {"authorization": f"Bearer {key}", **headers}
        answer = self.server.ask("POST", "/v1/chat/completions", asked, **named)
        assert answer.status == status, answer.body

    def traced(self, asked: Any, spans: int, trace_id: str, **more: Any) -> list[Seen]:
        """The spans of a request that comes with a trace, and there are so many."""
        self.ask(asked, traceparent=f"00-{trace_id}-{SPAN}-01", **more)
        eventually(lambda: len(self.collector.trace(trace_id)) >= spans, "the spans")
        return self.collector.trace(trace_id)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    file = tmp_path_factory.mktemp("traces") / "servery.yaml"
    with recording(Recorder(says="word")) as upstream, collecting() as collector:
        file.write_text(FILE.format(collector=collector.url, upstream=upstream.url, sample="0%"))
        os.environ["OTEL_BSP_SCHEDULE_DELAY"] = "20"
        server = ServerProcess("--config", str(file))
        try:
            server.wait_ready()
            yield Stage(server, upstream, collector)
        finally:
            del os.environ["OTEL_BSP_SCHEDULE_DELAY"]
            server.end()


def test_a_retry_is_exactly_the_tree_that_it_was_and_goes_on_upstream(stage: Stage) -> None:
    stage.upstream.asked.clear()
    stage.ask(body("flaky"), **PARENT, x_request_id="r-1", x_servery_task="t-1")
    eventually(lambda: len(stage.collector.trace(TRACE)) == 4, "the spans")
    spans = stage.collector.trace(TRACE)

    assert tree(spans, SPAN) == [
        ("POST /v1/chat/completions", [("admission", []), ("chat 503", []), ("chat well", [])])
    ]
    by_name = {span.name: span for span in spans}
    root, failed, answered = by_name["POST /v1/chat/completions"], by_name["chat 503"], by_name["chat well"]
    assert [(span.kind, span.is_error) for span in (root, failed, answered)] == [
        ("SERVER", False), ("CLIENT", True), ("CLIENT", False),
    ]  # fmt: skip
    assert all(root.start_ns <= span.start_ns <= span.end_ns <= root.end_ns for span in spans)
    assert failed.end_ns <= answered.start_ns
    assert root.attributes.pop("gen_ai.response.id").startswith("chatcmpl-")
    assert root.attributes.pop("servery.waited_s", 1) > 0
    used = {
        "gen_ai.usage.input_tokens": COUNTS["prompt_tokens"],
        "gen_ai.usage.output_tokens": COUNTS["completion_tokens"],
    }
    asked = {"gen_ai.operation.name": "chat", "gen_ai.request.max_tokens": 6, "gen_ai.request.temperature": 0.0}
    assert root.attributes == {
        "http.request.method": "POST", "http.route": "/v1/chat/completions", "http.response.status_code": 200,
        **asked, **used, "gen_ai.request.model": "flaky", "gen_ai.response.model": "flaky",
        "gen_ai.response.finish_reasons": ["stop"], "servery.request_id": "r-1", "servery.task": "t-1",
        "servery.outcome": "completed", "servery.attempts": 2, "servery.slo_met": True,
        "servery.cost_usd": pytest.approx(17e-6),
    }  # fmt: skip
    place = {"server.address": "127.0.0.1", "server.port": stage.upstream.port}
    assert failed.attributes == {
        **asked, **place, "gen_ai.request.model": "503", "gen_ai.provider.name": "openai", "servery.deployment": "bad",
        "servery.tier": "api", "servery.chosen_because": "listed", "servery.result": "status_503", "error.type": "status_503",
    }  # fmt: skip
    assert answered.attributes == {
        **asked, **place, **used, "gen_ai.request.model": "well", "gen_ai.provider.name": "vllm",
        "servery.deployment": "good", "servery.tier": "self-hosted", "servery.chosen_because": "listed",
        "servery.result": "ok",
    }  # fmt: skip
    assert (root.schema_url, root.state) == (conventions.SCHEMA_URL, PARENT["tracestate"])
    assert root.resource["service.name"] == "kitchen"
    told = [(headers["traceparent"], headers["tracestate"]) for _, headers, sent in stage.upstream.asked if sent]
    assert told == [(f"00-{TRACE}-{span.span_id}-01", PARENT["tracestate"]) for span in (failed, answered)]
    assert stage.collector.headers[-1]["x-collector-key"] == "secret"
    assert stage.collector.headers[-1][":path"] == "/v1/traces"


def test_the_engine_s_part_is_below_the_attempt(stage: Stage) -> None:
    trace_id = "1" * 32
    spans = stage.traced(body("local", stream=True), 6, trace_id)
    engine = [("queue", []), ("prefill", []), ("decode", [])]
    assert tree(spans, SPAN) == [
        ("POST /v1/chat/completions", [("admission", []), ("chat amuse-draft", engine)])
    ]  # fmt: skip
    by_name = {span.name: span for span in spans}
    attempt, queue, prefill, decode = (by_name[name] for name in ("chat amuse-draft", "queue", "prefill", "decode"))
    assert attempt.kind == "INTERNAL"
    assert attempt.start_ns == queue.start_ns <= queue.end_ns == prefill.start_ns < prefill.end_ns == decode.start_ns
    assert decode.start_ns < decode.end_ns <= attempt.end_ns
    assert attempt.attributes["gen_ai.provider.name"] == "servery"
    first_s = attempt.attributes["gen_ai.response.time_to_first_chunk"]
    assert first_s == pytest.approx((prefill.end_ns - attempt.start_ns) / 1e9, abs=1e-5)
    assert decode.attributes == {"gen_ai.usage.output_tokens": 6}
    assert prefill.attributes["gen_ai.usage.input_tokens"] == attempt.attributes["gen_ai.usage.input_tokens"] > 0


@pytest.mark.parametrize(
    ("asked", "status", "key", "names"),
    [
        (body("broken"), 503, "sk-client", ["admission", "chat 503"]),
        (body("nowhere"), 404, "sk-client", []),
        (body("flaky"), 401, "sk-wrong", []),
        (body("rescued"), 200, "sk-client", ["admission", "chat 503", "chat 503", "chat well"]),
        (body("claude"), 502, "sk-client", ["admission", "chat claude-x"]),
    ],
    ids=["failed", "unknown-model", "no-key", "fallback", "another-api"],
)
def test_whatever_becomes_of_a_request_its_span_says_so(
    stage: Stage, asked: Any, status: int, key: str, names: list[str]
) -> None:
    stage.upstream.asked.clear()
    trace_id = f"{asked['model']}{status}".encode().hex().ljust(32, "7")
    spans = stage.traced(asked, 1 + len(names), trace_id, status=status, key=key)
    (root,) = [span for span in spans if span.parent_id == SPAN]
    assert [name for name, _ in tree(spans, root.span_id)] == names
    assert root.attributes["http.response.status_code"] == status
    assert root.is_error == (status >= 500)
    assert ("error.type" in root.attributes) == root.is_error
    sent = [headers["traceparent"].split("-")[2] for _, headers, sent in stage.upstream.asked if sent]
    assert sent == [span.span_id for span in spans if span.kind == "CLIENT"]


def test_every_name_is_in_the_pinned_table_and_in_the_conventions(stage: Stage) -> None:
    """Behind the others: of all spans that came."""
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    table = {name for names in conventions.ATTRIBUTES.values() for name in names}
    assert {name for name in table if name.startswith("gen_ai.")} <= known
    for span in stage.collector.spans:
        part = "request" if span.kind == "SERVER" else span.name if span.name in conventions.ATTRIBUTES else "attempt"
        assert set(span.attributes) <= conventions.ATTRIBUTES[part], span.name


def test_what_begins_here_is_sampled_by_share_and_told_upstream(stage: Stage) -> None:
    stage.upstream.asked.clear()
    before = len(stage.collector.spans)
    stage.ask(body("plain"))
    stage.ask(body("plain"), traceparent=f"00-{'3' * 32}-{SPAN}-00")
    told = [headers["traceparent"] for _, headers, sent in stage.upstream.asked if sent]
    assert all(header.endswith("-00") for header in told)
    assert told[-1].split("-")[1] == "3" * 32
    stage.traced(body("plain"), 3, "4" * 32)  # what came before it would be there
    assert len(stage.collector.spans) - before == 3


def test_the_metrics_say_how_many_spans_were_sent(stage: Stage) -> None:
    stage.traced(body("local"), 6, "5" * 32)
    eventually(lambda: spans(stage.server, "exported") == len(stage.collector.spans), "sent")
    assert spans(stage.server, "dropped") == 0


def test_every_line_of_the_log_is_an_object_with_the_request_and_its_trace(stage: Stage) -> None:
    stage.traced(body("local"), 6, "6" * 32, x_request_id="r-6")
    stage.server.wait_line(r'"request_id": "r-6"')
    lines = [json.loads(line) for line in stage.server.lines if line.startswith("{")]
    assert all({"time", "level", "logger", "message", "pid"} <= set(line) for line in lines)
    line = lines[-1]
    assert line["message"].startswith("POST /v1/chat/completions 200 r-6 local: ")
    known = {name: line[name] for name in ("request_id", "trace_id", "status", "model", "generated_tokens", "route")}
    assert known == {
        "request_id": "r-6", "trace_id": "6" * 32, "status": 200, "model": "local", "generated_tokens": 6,
        "route": "/v1/chat/completions",
    }  # fmt: skip
    failed = [line for line in lines if line.get("deployment") == "bad"]
    assert failed
    assert all({"request_id", "trace_id", "failure", "why"} <= set(line) for line in failed)


def test_prompts_and_answers_are_in_traces_for_those_who_asked_and_keys_are_not(tmp_path: Path) -> None:
    said = body("plain", messages=[{"role": "user", "content": "my key is sk-abcdef123456, and k-upstream"}])
    with recording(Recorder(says="an answer")) as upstream, collecting() as collector:
        file = tmp_path / "servery.yaml"
        text = FILE.format(collector=collector.url, upstream=upstream.url, sample="100%, content: true")
        text = text.replace("model: well,", "model: well, api_key: k-upstream,")
        file.write_text(re.sub(r"  (here|local): .*\n", "", text))
        server = ServerProcess("--config", str(file), "--workers", "2")
        try:
            server.wait_ready()
            for stream in (False, True):
                path, key = "/v1/chat/completions", {"authorization": "Bearer sk-client"}
                assert server.ask("POST", path, said | {"stream": stream}, **key).status == 200
            eventually(lambda: len(collector.spans) == 6, "the spans")
        finally:
            server.end()
    roots = [span for span in collector.spans if span.kind == "SERVER"]
    assert all(root.resource["service.instance.id"] and root.resource["servery.worker"] in "01" for root in roots)
    for root in roots:
        asked, answered = (json.loads(root.attributes[f"gen_ai.{name}.messages"]) for name in ("input", "output"))
        shown = {"type": "text", "content": "my key is [key], and [secret]"}
        assert asked == [{"role": "user", "parts": [shown]}]
        whole = {"type": "text", "content": "an answer"}
        assert answered == [{"role": "assistant", "parts": [whole], "finish_reason": "stop"}]


def test_a_collector_that_hangs_slows_nobody_and_what_is_lost_is_counted(tmp_path: Path) -> None:
    with recording(Recorder()) as upstream, collecting(hangs=True) as collector:
        file = tmp_path / "servery.yaml"
        text = FILE.format(collector=collector.url, upstream=upstream.url, sample="100%, max_spans: 64")
        file.write_text(re.sub(r"  (here|local): .*\n", "", text))
        server = ServerProcess("--config", str(file))
        try:
            server.wait_ready()
            key = {"authorization": "Bearer sk-client"}
            assert server.ask("POST", "/v1/chat/completions", body("flaky"), **key).status == 200
            eventually(collector.hung.is_set, "the collector hangs")
            for _ in range(40):  # none of which waits for it: 40 times its timeout would be minutes
                assert server.ask("POST", "/v1/chat/completions", body("flaky"), **key).status == 200
            dropped = spans(server, "dropped")
            assert dropped >= 40
            assert spans(server, "waiting") + dropped >= 3 * 41
            assert spans(server, "exported") == 0
            server.process.terminate()
            assert server.wait_exit() == 0  # with all of it still waiting
        finally:
            server.end()
