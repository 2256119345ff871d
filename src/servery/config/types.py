"""What a configuration says, once it is known to be right. Times are seconds, money is micro-dollars (10**-6 USD)."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

from servery.config.secret import Secret


class Kind(enum.Enum):
    """How to speak to a deployment. All but the first and the last two are OpenAI-compatible servers."""

    EMBEDDED = "embedded"
    OPENAI = "openai"
    VLLM = "vllm"
    SGLANG = "sglang"
    TGI = "tgi"
    TENSORRT_LLM = "tensorrt-llm"
    OLLAMA = "ollama"
    LLAMA_CPP = "llama.cpp"
    ANTHROPIC = "anthropic"
    BEDROCK = "bedrock"


class Tier(enum.Enum):
    """Who runs a deployment: this process, the user's own servers, a managed endpoint, or somebody's API."""

    EMBEDDED = "embedded"
    SELF_HOSTED = "self-hosted"
    MANAGED = "managed"
    API = "api"


class Place(enum.Enum):
    """How a deployment is chosen for a request."""

    FIRST = "first"
    WEIGHTED = "weighted"
    LEAST_LOAD = "least-load"
    PREFIX_AFFINITY = "prefix-affinity"
    CHEAPEST_WITHIN_SLO = "cheapest-within-slo"


class Overload(enum.Enum):
    """What happens to a request when no deployment can meet the model's SLO."""

    BEST_EFFORT = "best-effort"
    QUEUE = "queue"
    SHED = "shed"


class Continues(enum.Enum):
    """How a deployment takes up an answer that another one began.

    `PREFILL`: it goes on with a last message of the assistant's. `REPLAY`: it writes the same answer again, for requests
    at temperature 0 or with a seed. `NONE`: it cannot.
    """

    NONE = "none"
    PREFILL = "prefill"
    REPLAY = "replay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Within what time the first token and each further one are to come, and for what share of the requests."""

    ttft_s: float
    tpot_s: float
    attainment: float = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """The most that each phase of an exchange may take; `total_s` bounds them together, retries included.

    `queue_s` is for the wait until a deployment has a place, None: as long as for a first token. `answer_s` is for a
    deployment elsewhere to begin an answer that is not streamed, None: any time.
    """

    connect_s: float = 5.0
    first_token_s: float = 60.0
    stall_s: float = 30.0
    total_s: float = 600.0
    queue_s: float | None = None
    answer_s: float | None = None

    @property
    def turn_s(self) -> float:
        """How long a request waits for its turn."""
        return self.first_token_s if self.queue_s is None else self.queue_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """`attempts` in all for a request; retries may add `budget` of the traffic (0.2: one for five requests).

    The n-th retry waits a random time of up to `base_s * 2**n`, at most `max_s` (full jitter).
    """

    attempts: int = 3
    budget: float = 0.2
    base_s: float = 0.1
    max_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedge:
    """When another deployment is asked besides one that has given no first token. One of the two is set.

    After `after_s`, or after the time within which the share `quantile` of the deployment's latest answers began.
    """

    after_s: float | None = None
    quantile: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallbacks:
    """Models to ask instead, in this order: after errors, for a prompt that is too long, for one that was refused."""

    error: tuple[str, ...] = ()
    context_window: tuple[str, ...] = ()
    content_policy: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierPolicy:
    """Which answers are kept for when nobody answers: no older than this, in no more memory.

    `is_any`: also such as would not be the same again.
    """

    max_age_s: float
    memory_bytes: int = 16 << 20
    is_any: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Micro-dollars per million tokens, and per hour for capacity that is paid for whether it is used or not."""

    input_per_mtok: int = 0
    cached_per_mtok: int = 0
    output_per_mtok: int = 0
    per_hour: int = 0

    @property
    def is_fixed(self) -> bool:
        """Whether a further request costs nothing until the capacity is full."""
        return self.input_per_mtok == self.cached_per_mtok == self.output_per_mtok == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How a deployment's health is asked: GET `path` every `interval_s`; None: by nothing but its answers."""

    path: str | None = None
    interval_s: float = 10.0
    timeout_s: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentConfig:
    """One place where a model runs.

    `model` is what it is called there; `url` the address that API paths are added to, None for kinds that need none.
    `apis` are those that it speaks itself: "chat", "completions", "embeddings", "rerank", "messages", "responses".
    `engine` are settings of the embedded engine, by their names in `EngineConfig`.
    """

    name: str
    kind: Kind
    tier: Tier
    model: str
    url: str | None = None
    api_key: Secret | None = None
    headers: Mapping[str, Secret] = field(default_factory=lambda: MappingProxyType({}))
    ca_file: Path | None = None
    region: str | None = None
    weight: float = 1.0
    max_concurrency: int | None = None
    max_queue: int = 1_000
    price: Price = Price()
    apis: frozenset[str] = frozenset()
    continues: Continues = Continues.NONE
    engine: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    health: Probe = Probe()


class OnFailure(enum.Enum):
    """What happens to requests that have limits while the store that counts them for all gateways does not answer.

    `CLOSED`: they are refused. `LOCAL`: each gateway counts by itself.
    """

    CLOSED = "closed"
    LOCAL = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most that a key, an owner or a model may take; None: as much as it likes.

    What a rate leaves unused is saved up for `burst_s` at most: 600 requests per minute with a burst of 6 s let 60 come at
    once. Days and months are those of UTC.
    """

    requests_per_minute: int | None = None
    input_tokens_per_minute: int | None = None
    output_tokens_per_minute: int | None = None
    concurrency: int | None = None
    microusd_per_day: int | None = None
    microusd_per_month: int | None = None
    burst_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyConfig:
    """A key that clients send, known by the SHA-256 of what is sent; the name is its id. None: any model, any tier."""

    name: str
    digests: tuple[bytes, ...]
    owner: str = ""
    models: frozenset[str] | None = None
    tiers: frozenset[Tier] | None = None
    expires_s: float | None = None
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """How limits are counted: in this process, or in a Redis for all gateways, which has `deadline_s` to answer.

    `default_max_tokens` is the most that an answer may have whose request says nothing, where output is limited.
    """

    redis: Secret | None = None
    deadline_s: float = 0.1
    on_failure: OnFailure = OnFailure.CLOSED
    default_max_tokens: int = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A name that clients ask for, and where it runs: tiers of deployments' names, those to be filled first in front."""

    name: str
    tiers: tuple[tuple[str, ...], ...]
    place: Place = Place.LEAST_LOAD
    slo: Slo | None = None
    timeouts: Timeouts = Timeouts()
    retry: Retry = Retry()
    hedge: Hedge | None = None
    fallbacks: Fallbacks = Fallbacks()
    earlier: EarlierPolicy | None = None
    overload: Overload = Overload.BEST_EFFORT
    limits: Limits = Limits()

    @property
    def deployments(self) -> tuple[str, ...]:
        """Every deployment's name, tier after tier."""
        return tuple(name for tier in self.tiers for name in tier)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerConfig:
    """Where the ledger is kept: in an SQLite file or in a PostgreSQL database, one of the two.

    Rows older than `retention_s` are deleted; None: never.
    """

    path: Path | None = None
    url: Secret | None = None
    retention_s: float | None = None

    @property
    def shown(self) -> str:
        """Where it is, without user, password and options."""
        if self.url is None:
            return str(self.path)
        parts = urlsplit(self.url.reveal())
        return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TracesConfig:
    """Where traces are sent by OTLP over HTTP; None: as OpenTelemetry's environment variables say.

    `share` of the traces that begin here are recorded. At most `max_spans` wait to be sent. With `content` prompts and
    answers are in them.
    """

    endpoint: str | None = None
    headers: Mapping[str, Secret] = field(default_factory=lambda: MappingProxyType({}))
    share: float | None = None
    max_spans: int = 8192
    timeout_s: float | None = None
    service: str | None = None
    content: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryConfig:
    """What is told of requests besides metrics and the ledger. `log_format` is "text" or "json"."""

    traces: TracesConfig | None = None
    log_format: str = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All of it. `generation` counts the configurations that this process has taken up, from 1; `source` is the file.

    `files` are others that were read for it: mounted secrets, certificates. `keys` are known by their digests alone;
    further ones are in `key_store`. `owners` have limits over all of their keys.
    """

    models: Mapping[str, ModelConfig]
    deployments: Mapping[str, DeploymentConfig]
    source: Path | None = None
    generation: int = 1
    files: tuple[Path, ...] = ()
    api_keys: tuple[Secret, ...] = ()
    admin_keys: tuple[Secret, ...] = ()
    metrics_keys: tuple[Secret, ...] = ()
    viewer_keys: tuple[Secret, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    ledger: LedgerConfig | None = None
    drain_timeout_s: float = 30.0
    keep_alive_s: float = 15.0
    max_body_bytes: int = 4 << 20
    keys: Mapping[str, KeyConfig] = field(default_factory=lambda: MappingProxyType({}))
    owners: Mapping[str, Limits] = field(default_factory=lambda: MappingProxyType({}))
    limits: LimitsConfig = LimitsConfig()
    key_store: Path | None = None
    telemetry: TelemetryConfig = TelemetryConfig()
