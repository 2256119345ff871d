"""A whole run: what is asked of the server, what is counted, what is written and what the exit code says."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from rich.console import Console

from servery.bench import closed_loop
from servery.bench import run as bench_run
from servery.bench.address import Address
from servery.bench.arrivals import Arrivals
from servery.bench.client import Client
from servery.bench.errors import BadTrace, Unreachable, WrongStatus
from servery.bench.measured import Measured
from servery.bench.options import BenchOptions, LoadOptions, TargetOptions, WorkOptions
from servery.bench.planned import Planned
from servery.bench.report import Report, sample_rows, summarize
from servery.bench.run import measure
from servery.bench.sample import Sample
from servery.bench.slo import BenchSlo
from servery.bench.span import Span
from servery.bench.table import show
from servery.bench.validity import cost_notes
from tests.scripted_server import CUT, ScriptedServer, chunk, event, head, json_answer, scripted, stream

CHAT = "/v1/chat/completions"
MODELS = [json_answer({"data": [{"id": "amuse"}]})]
NAMES = (
    "engine_steps", "engine_step_seconds", "engine_step_tokens", "engine_read_bytes",
    "prefix_cache_queries", "prefix_cache_hits", "num_preemptions",
)  # fmt: skip


def metrics(*values: float) -> list[bytes]:
    lines = [f'servery_{name}_total{{model_name="amuse"}} {value}\n' for name, value in zip(NAMES, values, strict=True)]
    body = "".join(lines).encode()
    return [head(200, "text/plain", content_length=str(len(body))) + body]


def bench(script: dict[str, list[list[Any]]], **options: Any) -> tuple[Report, ScriptedServer]:
    async def run() -> tuple[Report, ScriptedServer]:
        async with scripted({"/v1/models": MODELS, **script}) as server:
            return await measure(_options(server, **options)), server

    return asyncio.run(run())


def _options(server: ScriptedServer, **options: Any) -> BenchOptions:
    target, work = {"url": server.url}, {"prompt_tokens": Span(20, 20), "output_tokens": Span(2, 2)}
    load: dict[str, Any] = {"concurrency": 2, "requests": 4, "warmup": 1}
    if "arrivals" in options or "is_replay" in options:
        load["concurrency"] = None
    whole: dict[str, Any] = {"measures_bandwidth": False}
    for name, value in options.items():
        kinds = ((TargetOptions, target), (WorkOptions, work), (LoadOptions, load), (BenchOptions, whole))
        next(given for kind, given in kinds if name in kind.__dataclass_fields__)[name] = value
    return BenchOptions(target=TargetOptions(**target), work=WorkOptions(**work), load=LoadOptions(**load), **whole)


def test_a_run_asks_for_what_it_was_told_and_counts_only_what_it_measures() -> None:
    report, server = bench({CHAT: [stream("a", "b", prompt_tokens=20)]}, api_key="secret")
    probe, *rest = server.bodies(CHAT)
    assert probe["max_tokens"] == 1
    assert len(rest) == 1 + 4
    assert {key: rest[0][key] for key in rest[0] if key != "messages"} == {
        "model": "amuse",
        "stream": True,
        "max_tokens": 2,
        "temperature": 0.0,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }
    summary = report.summary
    assert (summary.good, summary.errors, summary.load) == (4, {}, "closed loop, 2 clients")
    assert (summary.prompt_tokens.mean, summary.output_tokens.mean) == (20, 2)
    assert [summary.latency[name].n for name in ("ttft_ms", "tpot_ms", "itl_ms", "stall_ms", "e2e_ms")] == [4] * 5
    assert (report.engine, report.model, len(report.samples)) == (None, "amuse", 4)
    assert "secret" not in str(report)


def test_each_error_is_counted_by_its_kind_and_the_rest_is_measured() -> None:
    broken = chunk(event("a") + b'data: {"error": {"message": "engine died"}}\n\n')
    script = [
        stream("probe"),
        stream("a", "b"),
        [head(), broken, chunk(b"")],
        [head(), chunk(event("a")), CUT],
        json_answer({"error": {"message": "queue full"}}, 429),
        stream("c", "d"),
    ]
    report, _ = bench({CHAT: script}, requests=6, warmup=0, concurrency=1)
    summary = report.summary
    assert summary.good == 3
    assert summary.errors == {"in_band_error": 1, "cut_short": 1, "http_429": 1}
    assert summary.error_examples["http_429"] == "HTTP 429: queue full"
    assert summary.latency["ttft_ms"].n == 3
    assert [row["error"] for row in report.samples] == [None, "in_band_error", "cut_short", "http_429", None, None]


def test_parameters_that_the_server_refuses_are_found_out_first() -> None:
    refusal = json_answer({"error": {"message": "Unrecognized request argument supplied: ignore_eos"}}, 400)
    report, server = bench({CHAT: [refusal, stream("a", "b")]})
    assert ["ignore_eos" in body for body in server.bodies(CHAT)] == [True] + [False] * 6
    assert report.notes[0] == "the server refuses ignore_eos; left out"
    assert "answers end themselves: 2 tokens is the most, not what was generated" in report.notes


@pytest.mark.parametrize("is_exact", [True, False])
def test_guessed_lengths_are_called_so(is_exact: bool) -> None:
    tokenize = [json_answer({"count": 20})] if is_exact else [json_answer({}, 404)]
    report, _ = bench({CHAT: [stream("a", "b")], "/tokenize": tokenize})
    assert any("guessed" in note for note in report.notes) is not is_exact


def test_the_engines_work_is_measured_around_the_run() -> None:
    script = {
        CHAT: [stream("a", "b")],
        "/metrics": [metrics(10, 1.0, 100, 1e9, 50, 20, 1), metrics(30, 3.0, 500, 5e9, 150, 70, 4)],
    }
    report, _ = bench(script)
    assert report.engine is not None
    assert (report.engine.steps, report.engine.achieved_bytes_per_s, report.engine.mbu) == (20, 2e9, None)


def test_a_server_that_is_still_loading_is_waited_for() -> None:
    async def run() -> None:
        script = {"/ready": [json_answer({}, 503), json_answer({}, 503), json_answer({})]}
        async with scripted(script) as server:
            assert await Client(Address.parse(server.url)).wait_until_ready(60.0, pause_s=0.0)
            assert len(server.asked) == 3
        async with scripted({"/ready": [json_answer({}, 503)]}) as server:
            assert not await Client(Address.parse(server.url)).wait_until_ready(0.0)
        async with scripted({}) as server:
            assert await Client(Address.parse(server.url)).wait_until_ready(0.0)

    asyncio.run(run())


def test_what_the_first_request_meets_is_raised() -> None:
    with pytest.raises(WrongStatus, match="no such key"):
        bench({CHAT: [json_answer({"error": {"message": "no such key"}}, 401)]})
    with pytest.raises(Unreachable):
        asyncio.run(measure(_options(ScriptedServer({}, port=1))))


def test_clients_are_as_many_as_asked_and_each_waits_for_its_answer() -> None:
    """Three requests hang: with three clients no fourth is sent before the first is let go."""

    async def run() -> None:
        go = asyncio.Event()
        held = [head(), chunk(event("a")), go, chunk(event("b", "stop")), chunk(b"")]
        async with scripted({CHAT: [held]}) as server:
            clients = [Client(Address.parse(server.url)) for _ in range(3)]
            done: list[Sample] = []
            load = asyncio.create_task(closed_loop.run(clients, [Planned(0.0, {})] * 7, done.append))
            await _until(lambda: len(server.asked) == 3)
            assert done == []
            go.set()
            measured = await load
            assert (len(measured.samples), len(done), server.connections) == (7, 7, 3)
            assert measured.began <= measured.samples[0].sent
            assert 0 <= measured.steady_s <= measured.wall_s
            for client in clients:
                client.close()

    asyncio.run(run())


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for is in another object's list
            await asyncio.sleep(0)


def good(sent: float, *arrivals: float, tokens: int | None = None) -> Sample:
    return Sample(sent, list(arrivals), arrivals[-1], 10, 5, tokens or len(arrivals), "length")


def test_throughput_counts_the_part_in_which_all_clients_were_busy() -> None:
    """Two clients, 2 tokens per event; the last request is sent at 4 of 6 s: three events had come by then."""
    samples = [good(0, 1, 2, tokens=4), good(0, 3, 4.5, tokens=4), good(4, 5, 6, tokens=4)]
    rates = summarize(Measured(samples, 0.0, 6.0, 0.1)).throughput
    assert (rates.good_requests, rates.output_tokens, rates.prompt_tokens) == (0.5, 2.0, 5.0)
    assert rates.steady_output_tokens == 3 * 2 / 4
    burst = summarize(Measured(samples[:2], 0.0, 6.0, 0.1)).throughput
    assert burst.steady_output_tokens is None


def test_a_run_of_errors_only_has_no_figures_but_its_errors() -> None:
    failed = Sample(0.0, error_kind="timeout", error="too late")
    summary = summarize(Measured([failed] * 3, 0.0, 1.0, 0.1))
    assert (summary.good, summary.errors, summary.error_examples) == (0, {"timeout": 3}, {"timeout": "too late"})
    assert (summary.cached_share, summary.tokens_per_event, summary.latency["ttft_ms"].n) == (None, None, 0)
    assert sample_rows(Measured([failed], 0.0, 1.0, 0.1))[0]["error"] == "timeout"


def test_the_table_says_when_there_are_too_few_samples() -> None:
    report, _ = bench({CHAT: [stream("a", "b")]}, requests=30)
    page = StringIO()
    show(report, Console(file=page, width=120))
    lines = page.getvalue().splitlines()
    [ttft] = [line for line in lines if "TTFT ms" in line]
    narrow = StringIO()
    show(replace(report, model="[/odd]"), Console(file=narrow, width=48))
    assert narrow.getvalue().startswith("[/odd]: 30 good requests")
    assert all(word in narrow.getvalue() for word in ("TTFT ms", "longest gap ms", "p95", "n < 200"))
    assert "n < 100" in ttft
    assert "n < 20 " not in ttft
    assert lines[0] == f"amuse: 30 good requests in {report.summary.wall_s:.1f} s; closed loop, 2 clients"


@pytest.mark.parametrize(("answer", "code"), [(stream("a", "b"), 0), ([head(), chunk(event("a")), CUT], 1)])
def test_the_exit_code_tells_whether_all_was_good_and_the_file_has_everything(
    answer: list[Any], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report, _ = bench({CHAT: [stream("probe"), answer]})

    async def measured(_: BenchOptions) -> Report:
        return report

    monkeypatch.setattr(bench_run, "measure", measured)
    options = _options(ScriptedServer({}), json_path=tmp_path / "out.json")
    assert bench_run.run(options) == code
    written = orjson.loads((tmp_path / "out.json").read_bytes())
    assert (written["schema"], written["model"], len(written["samples"])) == ("servery.bench/2", "amuse", 4)
    assert set(written["provenance"]) == {"date", "command", "version", "commit", "machine"}
    assert written["options"]["work"]["prompt_tokens"] == "20"
    assert "amuse: " in capsys.readouterr().out


def test_json_can_go_to_stdout_alone(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    report, _ = bench({CHAT: [stream("a", "b")]})

    async def measured(_: BenchOptions) -> Report:
        return report

    monkeypatch.setattr(bench_run, "measure", measured)
    assert bench_run.run(_options(ScriptedServer({}), json_path=Path("-"))) == 0
    assert orjson.loads(capfdbinary.readouterr().out)["model"] == "amuse"


def test_an_open_loop_is_judged_by_its_slo() -> None:
    """Two of eight fail: they are misses, and what the good ones cost is told."""
    error = json_answer({"error": {"message": "queue full"}}, 429)
    script = [stream("probe"), *([stream("a", "b", prompt_tokens=20)] * 3), error, error, stream("a", "b")]
    report, server = bench(
        {CHAT: script},
        requests=8,
        warmup=0,
        arrivals=Arrivals(200.0),
        slo=BenchSlo.parse("ttft:60s", 0.9),
        dollars_per_hour=3.6,
    )
    figures = report.summary.slo
    assert figures is not None
    assert (figures.attainment.good, figures.attainment.n, figures.misses) == (6, 8, {"error": 2})
    assert figures.goodput == pytest.approx(6 / report.summary.wall_s)
    assert figures.dollars_per_million_good_tokens == pytest.approx(1e6 * 3.6 / 3600 * report.summary.wall_s / 12)
    assert report.summary.load == "open loop, 200 requests/s, Poisson"
    assert (report.offered_rate, report.clients, "lag_ms" in report.summary.latency) == (200.0, None, True)
    assert [row["misses"] for row in report.samples].count(("error",)) == 2
    assert len(server.bodies(CHAT)) == 9


def test_a_trace_is_replayed_at_its_times_with_its_lengths(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = "".join(f"2023-11-16 18:17:0{index}.0,{40 + 10 * index},{3 + index}\n" for index in range(4))
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    script = {CHAT: [stream("a", "b")]}
    report, server = bench(script, trace=str(trace), is_replay=True, arrivals=Arrivals(100.0), warmup=1, requests=9)
    assert [body["max_tokens"] for body in server.bodies(CHAT)] == [1, 3, 4, 5, 6]
    gaps = [late["due_s"] - early["due_s"] for early, late in pairwise(report.samples)]
    assert gaps == pytest.approx([0.01, 0.01], abs=1e-6)
    assert report.summary.load == "open loop, the times of the trace at 100 requests/s"
    assert "the trace has no more than 4 requests, those of the warm-up among them" in report.notes
    with pytest.raises(BadTrace, match="no more than the 4 of the warm-up"):
        bench(script, trace=str(trace), is_replay=True, warmup=4)
    with pytest.raises(BadTrace, match=r"no file, and no kind of traffic \(chat, code, conversation\)"):
        bench(script, trace="no-such-thing", is_replay=True)


def test_a_kind_of_traffic_is_scaled_to_the_model() -> None:
    report, server = bench(
        {CHAT: [stream("a", "b")]},
        trace="chat",
        is_replay=True,
        scale_tokens=0.01,
        arrivals=Arrivals(500.0),
        requests=20,
    )
    assert len(report.samples) == 20
    assert max(body["max_tokens"] for body in server.bodies(CHAT)) < 20


@pytest.mark.parametrize(
    ("cpu_share", "said"), [(0.05, []), (0.3, ["more than 10 %"]), (0.9, ["90% of a core", "more than 10 %"])]
)
def test_a_client_that_costs_much_says_so(cpu_share: float, said: list[str]) -> None:
    """1,000 tokens in one second: a tenth of a core is the most that goes without a word."""
    samples = [good(0.0, 0.5, 1.0, tokens=1000)]
    notes = cost_notes(Measured(samples, 0.0, 1.0, cpu_share))
    assert len(notes) == len(said)
    assert all(word in note for word, note in zip(said, notes, strict=True))


def test_a_client_of_a_slow_server_says_nothing_of_1000_tokens_a_second() -> None:
    """100 tokens a second and 5 % of a core: most of that is the run's, not the tokens'."""
    assert cost_notes(Measured([good(0.0, 0.5, 1.0, tokens=100)], 0.0, 1.0, 0.05)) == []
