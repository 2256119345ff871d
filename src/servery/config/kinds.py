"""What is known of a deployment from its kind alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from servery.config.types import Continues, Kind, Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class KindFacts:
    """What holds for a kind unless the file says otherwise.

    `url` is where it is found; None with `needs_url`: only the user knows. `health` is the path, from the root of the
    server, that tells whether it lives.
    """

    tier: Tier
    apis: tuple[str, ...] = ()
    url: str | None = None
    needs_url: bool = False
    continues: Continues = Continues.NONE
    health: str | None = None


FACTS: Mapping[Kind, KindFacts] = MappingProxyType(
    {
        Kind.EMBEDDED: KindFacts(
            tier=Tier.EMBEDDED,
            apis=("chat", "completions", "embeddings", "rerank", "messages", "responses"),
            continues=Continues.REPLAY,
        ),
        Kind.OPENAI: KindFacts(
            tier=Tier.API, apis=("chat", "completions", "embeddings", "responses"), url="https://api.openai.com/v1"
        ),
        Kind.VLLM: KindFacts(
            tier=Tier.SELF_HOSTED,
            apis=("chat", "completions", "embeddings", "rerank", "responses"),
            needs_url=True,
            continues=Continues.PREFILL,
            health="/health",
        ),
        Kind.SGLANG: KindFacts(
            tier=Tier.SELF_HOSTED,
            apis=("chat", "completions", "embeddings", "rerank"),
            needs_url=True,
            continues=Continues.PREFILL,
            health="/health",
        ),
        Kind.TGI: KindFacts(tier=Tier.SELF_HOSTED, apis=("chat", "completions"), needs_url=True, health="/health"),
        Kind.TENSORRT_LLM: KindFacts(
            tier=Tier.SELF_HOSTED, apis=("chat", "completions"), needs_url=True, health="/health"
        ),
        Kind.OLLAMA: KindFacts(
            tier=Tier.SELF_HOSTED,
            apis=("chat", "completions", "embeddings"),
            url="http://127.0.0.1:11434/v1",
            health="/api/version",
        ),
        Kind.LLAMA_CPP: KindFacts(
            tier=Tier.SELF_HOSTED,
            apis=("chat", "completions", "embeddings", "rerank"),
            url="http://127.0.0.1:8080/v1",
            health="/health",
        ),
        Kind.ANTHROPIC: KindFacts(tier=Tier.API, apis=("messages",), url="https://api.anthropic.com/v1"),
        Kind.BEDROCK: KindFacts(tier=Tier.MANAGED),
    }
)
