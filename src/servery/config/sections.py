"""The shape of the file: every section, its keys, and what they mean.

This is the one place where a key is named: the reader, the JSON Schema for editors and the reference in the docs come
from here. Values with a unit stay text until `build.py` reads them.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from servery.config.types import Continues, Kind, OnFailure, Overload, Place, Tier

API_NAMES = ("chat", "completions", "embeddings", "rerank", "messages", "responses")

# Any: what is no such text gets an error that says more than its type.
Duration = Annotated[
    Any,
    Meta(
        description="A time with its unit: 500ms, 2s, 10m, 1h, 90d.",
        extra_json_schema={"type": "string", "pattern": r"^\d+(\.\d+)?\s*(us|ms|s|m|h|d)$"},
    ),
]
Share = Annotated[
    Any, Meta(description="A share: 0.99 or 99%.", extra_json_schema={"type": ["number", "string"], "minimum": 0})
]
Dollars = Annotated[
    Any, Meta(description="US dollars, to a millionth.", extra_json_schema={"type": ["number", "string"], "minimum": 0})
]
Weight = Annotated[
    Any, Meta(description="A number greater than 0.", extra_json_schema={"type": "number", "exclusiveMinimum": 0})
]
Positive = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]


class _Section(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    pass


class ServerSection(_Section, frozen=True):
    """Where Servery listens, and for whom."""

    host: Annotated[str, Meta(description="The address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="0 lets the system choose.")] = 8000
    api_keys: Annotated[
        list[str], Meta(description="Keys that clients send; write ${NAME}. Without any, nobody is asked for one.")
    ] = []
    api_key_file: Annotated[str | None, Meta(description="A file with one key per line, besides `api_keys`.")] = None
    admin_keys: Annotated[list[str], Meta(description="Keys for the admin routes; write ${NAME}.")] = []
    metrics_keys: Annotated[
        list[str], Meta(description="Keys that do for /metrics alone, for Prometheus; write ${NAME}.")
    ] = []
    viewer_keys: Annotated[
        list[str], Meta(description="Keys that may look at the dashboard alone; write ${NAME}.")
    ] = []
    key_store: Annotated[
        str | None,
        Meta(description="The SQLite file with the keys that `servery keys create` makes; with it a key is needed."),
    ] = None
    ledger: Annotated[
        str | None,
        Meta(description="One row per exchange: an SQLite file, or postgresql://USER:${PASSWORD}@HOST/DB; null: none."),
    ] = None
    ledger_retention: Annotated[
        Duration | None, Meta(description="Older rows of the ledger are deleted: 90d; null: none.")
    ] = None
    drain_timeout: Annotated[Duration, Meta(description="How long answers under way may go on at the end.")] = "30s"
    keep_alive: Annotated[Duration, Meta(description="After what silence a stream gets a comment.")] = "15s"
    max_body: Annotated[str | int, Meta(description="The largest request body: 4MiB.")] = "4MiB"


class PriceSection(_Section, frozen=True):
    """What a deployment costs: dollars per million tokens, or per hour whether it is used or not."""

    input: Annotated[Dollars | None, Meta(description="Dollars per million prompt tokens; with `output`.")] = None
    cached_input: Annotated[
        Dollars | None, Meta(description="Dollars per million prompt tokens read from a cache; else as `input`.")
    ] = None
    output: Annotated[Dollars | None, Meta(description="Dollars per million generated tokens; with `input`.")] = None
    per_hour: Annotated[Dollars | None, Meta(description="Dollars per hour of the machine.")] = None


class HealthSection(_Section, frozen=True):
    """How a deployment's health is asked, besides what its answers tell."""

    path: Annotated[str | None, Meta(description="Asked with GET; null: not asked. Else what the kind has.")] = None
    interval: Duration = "10s"
    timeout: Duration = "3s"


class DeploymentSection(_Section, frozen=True):
    """One place where a model runs."""

    kind: Annotated[Kind, Meta(description="How to speak to it.")]
    model: Annotated[Name | None, Meta(description="What the model is called there; else the deployment's name.")] = (
        None
    )
    tier: Annotated[Tier | None, Meta(description="Who runs it; else what the kind says.")] = None
    url: Annotated[str | None, Meta(description="The address up to its API's version: http://10.0.0.5:8000/v1.")] = None
    api_key: Annotated[str | None, Meta(description="Write ${NAME}, not the key itself.")] = None
    api_key_file: Annotated[str | None, Meta(description="A mounted secret: the file that has the key.")] = None
    headers: Annotated[
        dict[str, str],
        Meta(
            description="Headers for every request to it, but those of connection and length, which the client writes."
        ),
    ] = {}
    ca_file: Annotated[str | None, Meta(description="Certificates to trust besides the system's (PEM).")] = None
    region: Annotated[str | None, Meta(description="Of Bedrock: us-east-1.")] = None
    weight: Annotated[Weight, Meta(description="Its part of the traffic where `place` is weighted.")] = 1.0
    max_concurrency: Annotated[Positive | None, Meta(description="The most exchanges at a time.")] = None
    max_queue: Annotated[int, Meta(ge=0, description="The most exchanges that wait for a turn.")] = 1_000
    price: Annotated[
        PriceSection | Literal["free"] | None, Meta(description="Else the shipped catalog's, by the model's name.")
    ] = None
    apis: Annotated[
        list[Literal["chat", "completions", "embeddings", "rerank", "messages", "responses"]] | None,
        Meta(description="APIs that it speaks itself; others are translated. Else what the kind speaks."),
    ] = None
    continues: Annotated[Continues | None, Meta(description="How it takes up an answer that broke off elsewhere.")] = (
        None
    )
    engine: Annotated[
        dict[str, Any], Meta(description="Settings of an embedded engine, named as the options of servery serve.")
    ] = {}
    health: HealthSection | UnsetType = UNSET


class SloSection(_Section, frozen=True):
    """What the model's users are promised."""

    ttft: Annotated[Duration, Meta(description="The time to the first token: 500ms.")]
    tpot: Annotated[Duration, Meta(description="The time per further token: 50ms.")]
    attainment: Annotated[Share, Meta(description="The share of requests that is to keep both.")] = "99%"


class TimeoutsSection(_Section, frozen=True):
    """The most that each phase may take."""

    connect: Duration = "5s"
    first_token: Duration = "60s"  # noqa: S105 (a time)
    stall: Annotated[Duration, Meta(description="The longest silence in the middle of an answer.")] = "30s"
    total: Annotated[Duration, Meta(description="All of it, retries included.")] = "10m"
    queue: Annotated[Duration | None, Meta(description="The wait for a turn; else as `first_token`.")] = None
    answer: Annotated[
        Duration | None,
        Meta(description="Until one deployment begins an answer that is not streamed; else no limit but `total`."),
    ] = None


class RetrySection(_Section, frozen=True):
    """How often something is tried again before the first token."""

    attempts: Annotated[int, Meta(ge=1, le=20, description="In all, the first one included.")] = 3
    budget: Annotated[Share, Meta(description="Retries may add this share to the traffic.")] = "20%"
    base: Annotated[Duration, Meta(description="The first retry waits up to this; each further one twice as long.")] = (
        "100ms"
    )
    max: Annotated[Duration, Meta(description="No retry waits longer.")] = "5s"


class HedgeSection(_Section, frozen=True):
    """Whether a second deployment is asked when the first is slow to begin, and when."""

    after: Annotated[
        Any,
        Meta(
            description="A time (800ms), or the share of the deployment's latest answers that began sooner (p95).",
            extra_json_schema={"type": "string", "pattern": r"^(p\d+(\.\d+)?|\d+(\.\d+)?\s*(us|ms|s|m|h))$"},
        ),
    ]


class CachedSection(_Section, frozen=True):
    """Complete answers to exactly the same, of the same tenant, when no deployment and no other model answers."""

    max_age: Annotated[Duration, Meta(description="No older answer is given: 1h.")]
    answers: Annotated[
        Literal["repeatable", "any"],
        Meta(description="Which are kept: to requests with temperature 0 or a seed, or any."),
    ] = "repeatable"
    memory: Annotated[str | int, Meta(description="What they may take: 16MiB; an answer at most an eighth of it.")] = (
        "16MiB"
    )


class FallbacksSection(_Section, frozen=True):
    """Models to ask instead, in this order."""

    error: Annotated[list[Name], Meta(description="When no deployment answers.")] = []
    context_window: Annotated[list[Name], Meta(description="When the prompt is too long for it.")] = []
    content_policy: Annotated[list[Name], Meta(description="When its filter refuses the prompt.")] = []
    cached: Annotated[CachedSection | None, Meta(description="Last of all: an answer of before.")] = None


Rate = Annotated[int, Meta(ge=1, le=10**9)]


class LimitsSection(_Section, frozen=True):
    """The most that a key, an owner or a model may take; what is left out is not limited."""

    requests_per_minute: Annotated[Rate | None, Meta(description="Requests, as a steady rate.")] = None
    input_tokens_per_minute: Annotated[Rate | None, Meta(description="Tokens of prompts.")] = None
    output_tokens_per_minute: Annotated[Rate | None, Meta(description="Generated tokens.")] = None
    concurrency: Annotated[Rate | None, Meta(description="Exchanges under way at a time.")] = None
    dollars_per_day: Annotated[Dollars | None, Meta(description="From midnight to midnight, UTC.")] = None
    dollars_per_month: Annotated[Dollars | None, Meta(description="A calendar month, UTC.")] = None
    burst: Annotated[
        Duration, Meta(description="For how long rates save up what is not used: 1s to 1h. So much may come at once.")
    ] = "60s"


class KeySection(_Section, frozen=True):
    """A key that clients send. Its name here is its id in records."""

    sha256: Annotated[
        str | list[str], Meta(description="The SHA-256 of the key in hex (two while one takes the other's place).")
    ]
    owner: Annotated[Name | None, Meta(description="Whose key it is: one of `owners`, or any other name.")] = None
    models: Annotated[list[Name] | None, Meta(description="The models that it may ask for; else all.")] = None
    tiers: Annotated[list[Tier] | None, Meta(description="The tiers that may answer it; else all.")] = None
    expires: Annotated[
        Any,
        Meta(
            description="When it ends: 2027-01-31 (UTC), or with a time: 2027-01-31T12:00:00Z.",
            extra_json_schema={"type": "string"},
        ),
    ] = None
    limits: LimitsSection = LimitsSection()


class OwnerSection(_Section, frozen=True):
    """Somebody who has keys, and what all of these together may take."""

    limits: LimitsSection


class LimitingSection(_Section, frozen=True):
    """Where limits are counted, and what is done without that."""

    redis: Annotated[str | None, Meta(description="For several gateways together: redis://HOST:6379/0.")] = None
    deadline: Annotated[Duration, Meta(description="How long Redis may take to answer.")] = "100ms"
    on_failure: Annotated[
        OnFailure, Meta(description="Without Redis: refuse what has limits (closed), or count here alone (local).")
    ] = OnFailure.CLOSED
    default_max_tokens: Annotated[
        int,
        Meta(ge=1, le=10**7, description="The longest answer where output is limited and the request says nothing."),
    ] = 4096


class ModelSection(_Section, frozen=True):
    """A name that clients ask for."""

    deployments: Annotated[
        list[Name | list[Name]],
        Meta(min_length=1, description="Where it runs. Lists in the list are tiers; the first is filled first."),
    ]
    place: Annotated[Place, Meta(description="How a deployment is chosen.")] = Place.LEAST_LOAD
    slo: SloSection | None = None
    timeouts: TimeoutsSection | UnsetType = UNSET
    retry: RetrySection | UnsetType = UNSET
    hedge: HedgeSection | None = None
    fallbacks: FallbacksSection = FallbacksSection()
    overload: Annotated[
        Overload, Meta(description="What happens when none is predicted to keep the SLO: of cheapest-within-slo.")
    ] = Overload.BEST_EFFORT
    limits: Annotated[LimitsSection, Meta(description="What all who ask for it together may take.")] = LimitsSection()


class DefaultsSection(_Section, frozen=True):
    """What models have that say nothing else."""

    timeouts: TimeoutsSection = TimeoutsSection()
    retry: RetrySection = RetrySection()


class TracesSection(_Section, frozen=True):
    """Where traces are sent; what is left out is as OpenTelemetry's environment variables say."""

    endpoint: Annotated[
        str | None, Meta(description="A collector's address for OTLP over HTTP: http://127.0.0.1:4318.")
    ] = None
    headers: Annotated[dict[str, str], Meta(description="Headers for every request to it; write ${NAME}.")] = {}
    sample: Annotated[
        Share | None, Meta(description="The share of traces that is recorded, where the caller has not decided.")
    ] = None
    max_spans: Annotated[int, Meta(ge=64, le=10**6, description="The most that wait to be sent; more are dropped.")] = (
        8192
    )
    timeout: Annotated[Duration | None, Meta(description="What the collector may take to answer; else 10s.")] = None
    service: Annotated[Name | None, Meta(description="`service.name`; else servery.")] = None
    content: Annotated[
        bool, Meta(description="Write prompts and answers into traces. Whoever reads traces then reads all of them.")
    ] = False


class TelemetrySection(_Section, frozen=True):
    """What is told of requests besides metrics and the ledger."""

    traces: Annotated[TracesSection | None, Meta(description="OpenTelemetry traces; null: none.")] = None
    log_format: Annotated[Literal["text", "json"], Meta(description="json: an object per line.")] = "text"


class FileSections(_Section, frozen=True):
    """A configuration of Servery: models that clients ask for, and the deployments where they run."""

    deployments: Annotated[dict[str, DeploymentSection], Meta(min_length=1)]
    models: Annotated[dict[str, ModelSection], Meta(min_length=1)]
    server: ServerSection = ServerSection()
    defaults: DefaultsSection = DefaultsSection()
    keys: dict[str, KeySection] = {}
    owners: dict[str, OwnerSection] = {}
    limits: LimitingSection = LimitingSection()
    telemetry: TelemetrySection = TelemetrySection()


def json_schema() -> dict[str, Any]:
    """The file's JSON Schema (draft 2020-12), for editors."""
    schema = msgspec.json.schema(FileSections)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Servery's configuration"} | schema
