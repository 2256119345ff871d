"""A file becomes a configuration, or a list of faults that name line and key."""

from pathlib import Path
from textwrap import dedent

import pytest

from servery.config.errors import ConfigError
from servery.config.load import load_config, parse_config
from servery.config.secret import Secret
from servery.config.types import (
    Continues,
    DeploymentConfig,
    Fallbacks,
    Kind,
    ModelConfig,
    Overload,
    Place,
    Price,
    Probe,
    Retry,
    Slo,
    TelemetryConfig,
    Tier,
    Timeouts,
    TracesConfig,
)

MINIMAL = """\
deployments:
  here: {kind: embedded, model: amuse}
models:
  chat: {deployments: [here]}
"""


def faults(text: str, **environment: str) -> list[str]:
    """What is told of a file that cannot be used."""
    with pytest.raises(ConfigError) as caught:
        parse_config(dedent(text), environment)
    return [str(fault) for fault in caught.value.faults]


def deployment(line: str, **environment: str) -> DeploymentConfig:
    """The one deployment of a file whose entry is `line`."""
    text = f"deployments:\n  one: {line}\nmodels:\n  m: {{deployments: [one]}}\n"
    return parse_config(text, environment).deployments["one"]


def deployment_faults(line: str, **environment: str) -> list[str]:
    return faults(f"deployments:\n  one: {line}\nmodels:\n  m: {{deployments: [one]}}\n", **environment)


def model_faults(line: str) -> list[str]:
    return faults(f"deployments:\n  here: {{kind: embedded}}\nmodels:\n  m: {line}\n")


def test_a_small_file_has_the_documented_defaults() -> None:
    config = parse_config(MINIMAL, {})
    assert config.deployments["here"] == DeploymentConfig(
        name="here",
        kind=Kind.EMBEDDED,
        tier=Tier.EMBEDDED,
        model="amuse",
        apis=frozenset(("chat", "completions", "embeddings", "rerank", "messages", "responses")),
        continues=Continues.REPLAY,
    )
    assert config.models["chat"] == ModelConfig(name="chat", tiers=(("here",),))
    assert (config.host, config.port, config.generation, config.api_keys) == ("127.0.0.1", 8000, 1, ())


def test_everything_that_can_be_written_is_read() -> None:
    config = parse_config(
        dedent("""\
        server: {host: 0.0.0.0, port: 9000, api_keys: ["${KEY}"], admin_keys: [root], metrics_keys: [scraper], viewer_keys: [wall], drain_timeout: 1m, max_body: 1MiB}
        deployments:
          gpu:
            kind: vllm
            url: http://10.0.0.5:8000/v1/
            model: Qwen/Qwen3-8B
            api_key: ${KEY}
            headers: {x-team: blue}
            weight: 2
            max_concurrency: 8
            max_queue: 5
            price: {per_hour: 2.35, input: 0.1, output: "0.25"}
            apis: [chat]
            continues: none
            health: {path: /ping, interval: 1s, timeout: 200ms}
          cloud: {kind: bedrock, region: eu-west-1, model: x, price: free}
        models:
          chat:
            deployments: [[gpu], [cloud]]
            place: cheapest-within-slo
            slo: {ttft: 500ms, tpot: 0.05s, attainment: 95%}
            timeouts: {first_token: 5s}
            retry: {attempts: 2}
            fallbacks: {error: [small], context_window: [small]}
            overload: shed
          small: {deployments: [gpu, cloud], place: weighted}
        defaults:
          timeouts: {connect: 1s, total: 2m}
          retry: {budget: 0.5, base: 1ms, max: 1s}
        """),
        {"KEY": "sk-1"},
    )
    assert (config.host, config.port, config.drain_timeout_s) == ("0.0.0.0", 9000, 60.0)
    assert (config.api_keys, config.admin_keys, config.metrics_keys, config.viewer_keys) == (
        (Secret("sk-1"),),
        (Secret("root"),),
        (Secret("scraper"),),
        (Secret("wall"),),
    )
    assert config.max_body_bytes == 1 << 20
    assert config.deployments["gpu"] == DeploymentConfig(
        name="gpu",
        kind=Kind.VLLM,
        tier=Tier.SELF_HOSTED,
        model="Qwen/Qwen3-8B",
        url="http://10.0.0.5:8000/v1",
        api_key=Secret("sk-1"),
        headers={"x-team": Secret("blue")},
        weight=2.0,
        max_concurrency=8,
        max_queue=5,
        price=Price(input_per_mtok=100_000, cached_per_mtok=100_000, output_per_mtok=250_000, per_hour=2_350_000),
        apis=frozenset(("chat",)),
        health=Probe(path="/ping", interval_s=1.0, timeout_s=0.2),
    )
    assert config.models["chat"] == ModelConfig(
        name="chat",
        tiers=(("gpu",), ("cloud",)),
        place=Place.CHEAPEST_WITHIN_SLO,
        slo=Slo(ttft_s=0.5, tpot_s=0.05, attainment=0.95),
        timeouts=Timeouts(connect_s=1.0, first_token_s=5.0, total_s=120.0),
        retry=Retry(attempts=2, budget=0.5, base_s=0.001, max_s=1.0),
        fallbacks=Fallbacks(error=("small",), context_window=("small",)),
        overload=Overload.SHED,
    )
    assert config.models["small"].tiers == (("gpu", "cloud"),)


def test_a_price_is_written_free_or_that_of_the_catalog() -> None:
    assert deployment("{kind: openai, model: gpt-5.4-mini-2026-03-17}").price == Price(
        input_per_mtok=750_000, cached_per_mtok=75_000, output_per_mtok=4_500_000
    )
    assert deployment("{kind: ollama, price: free}").price == Price()
    assert deployment("{kind: openai, model: gpt-5.4-mini, price: {input: 0, output: 1}}").price == Price(
        output_per_mtok=1_000_000
    )
    assert deployment("{kind: ollama, price: {input: 0, output: 0}}").price == Price()


def test_secrets_come_from_the_environment_or_a_mounted_file_and_are_never_shown(tmp_path: Path) -> None:
    mounted = tmp_path / "key"
    mounted.write_text("sk-canary-9\n")
    assert deployment("{kind: openai, price: free, api_key: '${K}'}", K="sk-canary-8").api_key == Secret("sk-canary-8")
    found = deployment(f"{{kind: openai, price: free, api_key_file: {mounted}}}")
    assert found.api_key == Secret("sk-canary-9")
    assert "canary" not in repr(found)
    told = deployment_faults("{kind: openai, price: free, api_key: '${K}'}", K="sk canary")
    assert "canary" not in "".join(told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ["line 1: the file is empty."]),
        ("a: [1", ["line 1: this is not YAML: expected ',' or ']', but got '<stream end>'."]),
        ("- a", ["line 1: the file must have sections: deployments and models, and if wanted server, defaults."]),
        (
            "deployment:\n  a: 1\n",
            [
                "line 1: deployment: there is no such section. Did you mean 'deployments'?",
                "line 1: deployments: this section is missing; name at least one.",
                "line 1: models: this section is missing; name at least one.",
            ],
        ),
        (
            MINIMAL.replace("amuse}", "amuse}\n  here: {kind: vllm}"),
            ["line 3: deployments.here: this key was given before, in line 2."],
        ),
        (
            MINIMAL + "server:\n  prot: 1\n",
            ["line 6: server.prot: there is no such key here. Did you mean 'port'?"],
        ),
        (
            MINIMAL + "server:\n  port: 70000\n",
            ["line 6: server.port: expected int <= 65535."],
        ),
        (
            MINIMAL.replace("[here]", "[hare]"),
            [
                "line 2: deployments.here: no model runs here; name it in a model's deployments, or remove it.",
                "line 4: models.chat.deployments: there is no deployment 'hare'. Did you mean 'here'?",
            ],
        ),
        (
            MINIMAL.replace("[here]", "[here, here]"),
            ["line 4: models.chat.deployments: 'here' is named 2 times; once is enough."],
        ),
        (
            MINIMAL + "defaults: {timeouts: {connect: 5}}",
            [
                "line 5: defaults.timeouts.connect: 5 is not a time with its unit; write for instance 500ms, 2s, 10m or 1h."
            ],
        ),
    ],
)
def test_a_fault_names_its_line_its_key_and_what_to_do(text: str, told: list[str]) -> None:
    assert faults(text) == told


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "{kind: vlm}",
            "line 2: deployments.one.kind: 'vlm' is no choice; choose one of embedded, openai, vllm, sglang, tgi, tensorrt-llm, ollama, llama.cpp, anthropic, bedrock. Did you mean 'vllm'?",
        ),
        ("{model: x}", "line 2: deployments.one: the key 'kind' is missing."),
        (
            "{kind: vllm, price: free}",
            "line 2: deployments.one.url: a deployment of kind vllm needs its url, such as http://10.0.0.5:8000/v1.",
        ),
        (
            "{kind: bedrock, price: free}",
            "line 2: deployments.one.region: a deployment of kind bedrock needs its region, such as us-east-1.",
        ),
        (
            "{kind: openai, price: free, region: x}",
            "line 2: deployments.one.region: only kind bedrock has a region, and this is openai; remove it.",
        ),
        (
            "{kind: openai, price: free, engine: {a: 1}}",
            "line 2: deployments.one.engine: only kind embedded has an engine here, and this is openai; remove it.",
        ),
        (
            "{kind: embedded, url: 'http://x'}",
            "line 2: deployments.one.url: an embedded engine is reached without the network; remove it.",
        ),
        (
            "{kind: ollama, price: free, url: 'ftp://x'}",
            "line 2: deployments.one.url: 'ftp://x' is no address; write http://HOST:PORT/v1 or https://HOST/v1.",
        ),
        (
            "{kind: ollama, price: free, url: 'http://a..b/v1'}",
            "line 2: deployments.one.url: 'http://a..b/v1' is no address; write http://HOST:PORT/v1 or https://HOST/v1.",
        ),
        (
            "{kind: ollama, price: free, url: 'http://u:p@x/v1'}",
            "line 2: deployments.one.url: a url must not have a user or password in it; use api_key or headers.",
        ),
        (
            "{kind: ollama, price: free, url: 'http://x/v1?a=b'}",
            "line 2: deployments.one.url: a url must end with its path: no '?' and no '#'.",
        ),
        (
            "{kind: ollama, price: free, api_key: 'a b'}",
            "line 2: deployments.one.api_key: a key must have printable ASCII characters without spaces, and at least one.",
        ),
        (
            "{kind: ollama, price: free, api_key_file: /no/such}",
            "line 2: deployments.one.api_key_file: '/no/such' is no file.",
        ),
        (
            "{kind: ollama, price: free, api_key: '${NOPE}'}",
            "line 2: deployments.one.api_key: the environment variable NOPE is not set; set it, or write ${NOPE:-default}.",
        ),
        ("{kind: ollama, price: {input: x}}", "line 2: deployments.one.price.input: 'x' is not an amount of dollars; write a number such as 0.15."),
        ("{kind: ollama, price: cheap}", "line 2: deployments.one.price: 'cheap' is no choice; choose one of free."),
        ("{kind: ollama, price: {input: 1e999999999, output: 1}}", "line 2: deployments.one.price.input: inf is not an amount of dollars; write a number such as 0.15."),
        ("{kind: anthropic, price: free, apis: [chat]}", "line 2: deployments.one.apis: only OpenAI-compatible kinds have a choice of APIs, and this is anthropic; remove it."),
        ("{kind: ollama, price: free, headers: {x-team: 5}}", "line 2: deployments.one.headers: expected str, got int."),
        ("{kind: ollama, price: {inputs: 1}}", "line 2: deployments.one.price.inputs: there is no such key here. Did you mean 'input'?"),
        ("{kind: ollama, price: {input: 0.0000001}}", "line 2: deployments.one.price.input: 1e-07 is finer than a millionth of a dollar, or more than can be counted exactly."),
        ("{kind: ollama, price: free, weight: 0}", "line 2: deployments.one.weight: 0 is no weight; write a number greater than 0 and at most 1000000, such as 2."),
        ("{kind: ollama, price: free, weight: .inf}", "line 2: deployments.one.weight: '.inf' is no weight; write a number greater than 0 and at most 1000000, such as 2."),
        ("{kind: ollama, price: free, weight: 1e999}", "line 2: deployments.one.weight: inf is no weight; write a number greater than 0 and at most 1000000, such as 2."),
        ("{kind: ollama, price: free, url: 'http://x/vé'}", "line 2: deployments.one.url: 'http://x/vé' has characters outside ASCII in its path; write them as %XX."),
        ("{kind: ollama, price: free, url: 'http://1.2.3'}", "line 2: deployments.one.url: 'http://1.2.3' has '1.2.3' for a host, which is no IP address; write one such as https://api.example.com/v1."),
        ("{kind: bedrock, price: free, region: us east-1}", "line 2: deployments.one.region: 'us east-1' is no region; write one such as us-east-1 or eu-west-1."),
        ("{kind: bedrock, price: free, region: us-east-1/x}", "line 2: deployments.one.region: 'us-east-1/x' is no region; write one such as us-east-1 or eu-west-1."),
        ("{kind: ollama, price: free, headers: {'x y': a}}", "line 2: deployments.one.headers.x y: b'x y' is no name of a header; it may have letters, digits and !#$%&'*+-.^_`|~ only."),
        ("{kind: ollama, price: free, headers: {x: \"a\\nb\"}}", "line 2: deployments.one.headers.x: the value of the header 'x' has a line break or a control character in it."),
        ("{kind: ollama, price: free, headers: {Content-Length: '7'}}", "line 2: deployments.one.headers.Content-Length: the header 'Content-Length' is set by the HTTP client itself; leave it out."),
        ("{kind: ollama, price: free, headers: {te: trailers}}", "line 2: deployments.one.headers.te: the header 'te' is set by the HTTP client itself; leave it out."),
        ("{kind: ollama, price: free, headers: {host: ''}}", "line 2: deployments.one.headers.host: a host must not be empty; leave the header out for the url's own."),
        ("{kind: ollama, price: free, health: {path: a b}}", "line 2: deployments.one.health.path: 'a b' is no target; it must begin with / and have no spaces, write them as %20."),
        ("{kind: ollama, price: {}}", "line 2: deployments.one.price: no price is in it; write input and output in dollars per million tokens, per_hour, or price: free."),
        ("{kind: ollama, price: {input: 1}}", "line 2: deployments.one.price: the price of output tokens is missing; write output: in dollars per million, 0 if they are free."),
        ("{kind: ollama, price: {per_hour: 1, cached_input: 1, output: 1}}", "line 2: deployments.one.price: the price of input tokens is missing; write input: in dollars per million, 0 if they are free."),
        ("{kind: ollama, price: free, apis: [chats]}", "line 2: deployments.one.apis[0]: 'chats' is no choice; choose one of chat, completions, embeddings, messages, rerank, responses. Did you mean 'chat'?"),
        ("{kind: ollama, price: free, health: {interval: 10}}", "line 2: deployments.one.health.interval: 10 is not a time with its unit; write for instance 500ms, 2s, 10m or 1h."),
    ],
)  # fmt: skip
def test_a_deployment_that_cannot_be_is_told_of(line: str, told: str) -> None:
    assert told in deployment_faults(line)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "0.0.0.0", "::", "fe80::1%eth0", "localhost", "node-7.example.com", "my_pod"]
)
def test_addresses_and_names_to_listen_on_are_taken(host: str) -> None:
    assert parse_config(f"server: {{host: '{host}'}}\n{MINIMAL}", {}).host == host


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("http://0.0.0.0", "'http://0.0.0.0' is a URL; write the address alone, such as 0.0.0.0."),
        ("0.0.0.0:8000", "'0.0.0.0:8000' is more than an address; write it without brackets, and the port as `port`."),
        ("[::1]", "'[::1]' is more than an address; write it without brackets, and the port as `port`."),
        ("0.0.0", "'0.0.0' is no address and no host's name; write one such as 127.0.0.1, 0.0.0.0 for all, or ::."),
        (
            "300.1.1.1",
            "'300.1.1.1' is no address and no host's name; write one such as 127.0.0.1, 0.0.0.0 for all, or ::.",
        ),
        ("*", "'*' is no address and no host's name; write one such as 127.0.0.1, 0.0.0.0 for all, or ::."),
        ("", "'' is no address and no host's name; write one such as 127.0.0.1, 0.0.0.0 for all, or ::."),
        ("a..b", "'a..b' is no address and no host's name; write one such as 127.0.0.1, 0.0.0.0 for all, or ::."),
    ],
)
def test_what_cannot_be_listened_on_is_told_before_the_start(host: str, told: str) -> None:
    assert faults(f"server: {{host: '{host}'}}\n{MINIMAL}") == [f"line 1: server.host: {told}"]


@pytest.mark.parametrize("region", ["us-east-1", "us-gov-west-1", "ap-southeast-7", "us-isob-east-1", "eusc-de-east-1"])
def test_regions_of_every_form_are_taken(region: str) -> None:
    assert deployment(f"{{kind: bedrock, price: free, region: {region}}}").region == region


@pytest.mark.parametrize(
    ("server", "told"),
    [
        ("{ledger: .}", "server.ledger: '{folder}' is a folder; name a file in it."),
        ("{key_store: .}", "server.key_store: '{folder}' is a folder; name a file in it."),
        ("{ledger: a.db, key_store: ./a.db}", "server.key_store: the ledger is in this file; name another one."),
    ],
)
def test_what_is_kept_has_files_of_its_own(tmp_path: Path, server: str, told: str) -> None:
    file = tmp_path / "servery.yaml"
    file.write_text(f"server: {server}\n{MINIMAL}")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert [str(fault) for fault in caught.value.faults] == [f"line 1: {told.format(folder=tmp_path)}"]


def test_a_key_in_a_file_must_fit_into_a_header_as_one_that_is_written(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# ours\n\nright\nnot right\n")
    assert faults(f"server: {{api_key_file: {tmp_path / 'keys'}}}\n{MINIMAL}") == [
        "line 1: server.api_key_file: a key must have printable ASCII characters without spaces, and at least one."
    ]


def test_a_header_may_have_any_value_that_can_be_sent_and_name_another_host() -> None:
    given = deployment("{kind: ollama, price: free, headers: {X-Team: 'blau, grün', Host: inner.example}}").headers
    assert {name: value.reveal() for name, value in given.items()} == {"X-Team": "blau, grün", "Host": "inner.example"}


def test_authorities_are_read_before_the_first_request_needs_them(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    line = f"{{kind: ollama, price: free, ca_file: {tmp_path}/ca.pem}}"
    assert deployment_faults(line) == [
        f"line 2: deployments.one.ca_file: '{tmp_path}/ca.pem' holds no certificates that can be read; give a file in PEM format."
    ]


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("{kind: ollama, price: free, api_key: '${NOPE}'}", "api_key"),
        ("{kind: ollama, price: free, weight: '${NOPE}'}", "weight"),
        ("{kind: ollama, price: free, url: '${NOPE}'}", "url"),
        ("{kind: ollama, price: free, model: '${NOPE}'}", "model"),
        ("{kind: ollama, price: free, apis: ['${NOPE}']}", "apis[0]"),
        ("{kind: ollama, price: {input: '${NOPE}', output: 1}}", "price.input"),
    ],
)
def test_what_follows_from_a_variable_that_is_not_set_is_not_told_besides(line: str, key: str) -> None:
    assert deployment_faults(line) == [
        f"line 2: deployments.one.{key}: the environment variable NOPE is not set; set it, or write ${{NOPE:-default}}."
    ]


def test_a_variable_of_the_defaults_that_is_not_set_is_told_once() -> None:
    told = faults(MINIMAL + "defaults: {timeouts: {total: '${NOPE}'}}\nserver: {api_keys: ['${NOPE}']}\n")
    assert [fault.partition(" the environment")[0] for fault in told] == [
        "line 5: defaults.timeouts.total:",
        "line 6: server.api_keys[0]:",
    ]


def test_a_missing_price_says_how_to_write_one_and_what_the_catalog_has() -> None:
    (told,) = deployment_faults("{kind: openai, model: gpt-9}")
    assert told.startswith("line 2: deployments.one.price: no price is known for 'gpt-9'; write price: {input: ...,")
    assert "gpt-5.4-mini" in told


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{deployments: []}", "line 4: models.m.deployments: expected array of length >= 1."),
        ("{deployments: [[here], []]}", "line 4: models.m.deployments[1]: this tier is empty; name a deployment."),
        (
            "{deployments: [here], slo: {ttft: 500, tpot: 50ms}}",
            "line 4: models.m.slo.ttft: 500 is not a time with its unit; write for instance 500ms, 2s, 10m or 1h.",
        ),
        (
            "{deployments: [here], slo: {ttft: 500ms}}",
            "line 4: models.m.slo: the key 'tpot' is missing.",
        ),
        (
            "{deployments: [here], slo: {ttft: 0ms, tpot: 1s}}",
            "line 4: models.m.slo.ttft: '0ms' is no time at all; write more than 0, for instance 500ms.",
        ),
        (
            "{deployments: [here], slo: {ttft: 1s, tpot: 1s, attainment: 99}}",
            "line 4: models.m.slo.attainment: 99 is not a share; write 0.99 or 99%, from 0 to 1.",
        ),
        (
            "{deployments: [here], place: fastest}",
            "line 4: models.m.place: 'fastest' is no choice; choose one of first, weighted, least-load, prefix-affinity, cheapest-within-slo.",
        ),
        (
            "{deployments: [here], slo: {ttft: 1s, tpot: 1s}, overload: shed}",
            "line 4: models.m.overload: only place: cheapest-within-slo predicts an overload; choose that, or remove it.",
        ),
        (
            "{deployments: [here], place: cheapest-within-slo}",
            "line 4: models.m.slo: place: cheapest-within-slo needs one, such as slo: {ttft: 800ms, tpot: 50ms}.",
        ),
        (
            "{deployments: [here], retry: {attempts: 0}}",
            "line 4: models.m.retry.attempts: expected int >= 1.",
        ),
        (
            "{deployments: [here], timeouts: {total: 1s, first_token: 60s}}",
            "line 4: models.m.timeouts.first_token: 60s is longer than total, 1s; raise total, or lower it.",
        ),
        (
            "{deployments: [here], timeouts: {total: 99999999999999999h}}",
            "line 4: models.m.timeouts.total: '99999999999999999h' is longer than a hundred years; write at most 36500d.",
        ),
        (
            "{deployments: [here], timeouts: {queue: 5}}",
            "line 4: models.m.timeouts.queue: 5 is not a time with its unit; write for instance 500ms, 2s, 10m or 1h.",
        ),
        (
            "{deployments: [here], fallbacks: {cached: {max_age: 60}}}",
            "line 4: models.m.fallbacks.cached.max_age: 60 is not a time with its unit; write for instance 500ms, 2s, 10m or 1h.",
        ),
        (
            "{deployments: [here], fallbacks: {cached: {max_age: 1h, answers: all}}}",
            "line 4: models.m.fallbacks.cached.answers: 'all' is no choice; choose one of any, repeatable.",
        ),
        (
            "{deployments: [here], hedge: {after: 1s}}",
            "line 4: models.m.hedge: there is no second deployment to ask; name one in the model's deployments, or remove it.",
        ),
        (
            "{deployments: [here], hedge: {after: 1}}",
            "line 4: models.m.hedge.after: 1 is not a time with its unit; write for instance 500ms, 2s, 10m or 1h.",
        ),
        (
            "{deployments: [here], hedge: {after: p5}}",
            "line 4: models.m.hedge.after: 'p5' is no percentile that tells what is slow; write p50 to p99.9.",
        ),
        (
            "{deployments: [here], fallbacks: {error: [n]}}",
            "line 4: models.m.fallbacks.error: there is no model 'n'.",
        ),
        (
            "{deployments: [here], fallbacks: {error: [m]}}",
            "line 4: models.m.fallbacks.error: these fallbacks go in a circle: m -> m; take one of them out.",
        ),
    ],
)
def test_a_model_that_cannot_be_is_told_of(line: str, told: str) -> None:
    assert told in model_faults(line)


def test_a_circle_of_fallbacks_is_told_of_once() -> None:
    told = faults("""\
        deployments:
          here: {kind: embedded}
        models:
          a: {deployments: [here], fallbacks: {error: [b]}}
          b: {deployments: [here], fallbacks: {error: [c], context_window: [a]}}
          c: {deployments: [here], fallbacks: {error: [a]}}
        """)
    assert told == [
        "line 4: models.a.fallbacks.error: these fallbacks go in a circle: a -> b -> c -> a; take one of them out."
    ]


@pytest.mark.parametrize("kind", ["error", "context_window", "content_policy"])
def test_a_circle_of_any_one_kind_is_refused(kind: str) -> None:
    told = faults(f"""\
        deployments:
          here: {{kind: embedded}}
        models:
          a: {{deployments: [here], fallbacks: {{{kind}: [c, b]}}}}
          b: {{deployments: [here], fallbacks: {{{kind}: [a]}}}}
          c: {{deployments: [here]}}
        """)
    assert told == [
        f"line 4: models.a.fallbacks.{kind}: these fallbacks go in a circle: a -> b -> a; take one of them out."
    ]


def test_models_may_stand_in_for_each_other_for_different_reasons() -> None:
    """No single fault leads around: what is too long for the small one is asked of the large one, which may be down."""
    text = """\
        deployments:
          here: {kind: embedded}
          there: {kind: embedded}
        models:
          small: {deployments: [here], fallbacks: {context_window: [large], content_policy: [large]}}
          large: {deployments: [there], fallbacks: {error: [small]}}
        """
    config = parse_config(dedent(text), {})
    assert config.models["small"].fallbacks == Fallbacks(context_window=("large",), content_policy=("large",))
    assert config.models["large"].fallbacks == Fallbacks(error=("small",))


def test_a_total_may_be_shorter_than_a_phase_that_nobody_wrote_beside_it() -> None:
    general = "defaults: {timeouts: {first_token: 60s}}\n"
    config = parse_config(MINIMAL.replace("[here]", "[here], timeouts: {total: 30s}") + general, {})
    assert config.models["chat"].timeouts == Timeouts(first_token_s=60.0, total_s=30.0)
    told = faults(MINIMAL + "defaults: {timeouts: {stall: 2m, total: 1m}}")
    assert told == ["line 5: defaults.timeouts.stall: 2m is longer than total, 1m; raise total, or lower it."]


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "none.yaml", {})
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not text in UTF-8"):
        load_config(tmp_path / "bytes.yaml", {})


def test_traces_are_read_with_their_units_and_their_header_is_a_secret() -> None:
    traces = (
        "{endpoint: https://c:4318, headers: {x-key: '${KEY}'}, sample: 10%, timeout: 2s, max_spans: 100, service: s}"
    )
    found = parse_config(MINIMAL + f"telemetry: {{log_format: json, traces: {traces}}}", {"KEY": "k"}).telemetry
    assert found == TelemetryConfig(
        log_format="json",
        traces=TracesConfig(
            endpoint="https://c:4318",
            headers={"x-key": Secret("k")},
            share=0.1,
            timeout_s=2.0,
            max_spans=100,
            service="s",
        ),
    )
    assert parse_config(MINIMAL, {}).telemetry == TelemetryConfig()
    assert parse_config(MINIMAL + "telemetry: {traces: {}}", {}).telemetry.traces == TracesConfig()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("traces: {endpoint: collector:4318}", "telemetry.traces.endpoint: 'collector:4318' is no address"),
        ("traces: {sample: 11}", "telemetry.traces.sample: 11 is not a share"),
        ("traces: {timeout: 5}", "telemetry.traces.timeout: 5 is not a time with its unit"),
        ("traces: {headers: {'a b': c}}", "telemetry.traces.headers"),
        ("traces: {endpiont: x}", "Did you mean 'endpoint'?"),
        ("log_format: xml", "'xml' is no choice; choose one of json, text"),
    ],
)
def test_a_fault_in_telemetry_names_its_line_and_key(line: str, told: str) -> None:
    (fault,) = faults(MINIMAL + f"telemetry:\n  {line}\n")
    assert told in fault
    assert "line 6" in fault
