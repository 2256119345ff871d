"""Which GGUF architectures are which of ours, and how their files differ from checkpoints in Hugging Face layout."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher


@dataclass(frozen=True, slots=True)
class Family:
    """A GGUF architecture. Source of each fact: convert_hf_to_gguf.py in ggml-org/llama.cpp.

    `interleaves`: the halves of query and key heads are stored row by row in turn, so that neighbours rotate together.
    `shifts_norms`: 1 was added to every norm weight. `large_layers`: with so many layers the attention scale is
    1 / sqrt(hidden / heads), not 1 / sqrt(head_dim), which no key says.
    """

    architecture: str
    interleaves: bool = False
    shifts_norms: bool = False
    large_layers: int | None = None


FAMILIES: Mapping[str, Family] = {
    "llama": Family("LlamaForCausalLM", interleaves=True),
    "qwen2": Family("Qwen2ForCausalLM"),
    "qwen3": Family("Qwen3ForCausalLM"),
    "qwen3moe": Family("Qwen3MoeForCausalLM"),
    "gemma": Family("GemmaForCausalLM", shifts_norms=True),
    "gemma2": Family("Gemma2ForCausalLM", shifts_norms=True, large_layers=46),
    "gemma3": Family("Gemma3ForCausalLM", shifts_norms=True, large_layers=62),
    "phi3": Family("Phi3ForCausalLM"),
    "smollm3": Family("SmolLM3ForCausalLM", interleaves=True),
    "granite": Family("GraniteForCausalLM", interleaves=True),
    "glm4": Family("Glm4ForCausalLM"),
    "olmo2": Family("Olmo2ForCausalLM"),
}
# What "llama" is when the file has experts.
MIXTRAL = Family("MixtralForCausalLM", interleaves=True)


def nearest_family(name: str) -> str:
    """The supported GGUF architecture whose name is most like `name`."""
    return max(FAMILIES, key=lambda known: SequenceMatcher(None, name.lower(), known).ratio())
