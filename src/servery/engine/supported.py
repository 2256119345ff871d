"""Which architectures the decoder runs, and how each differs from the others: a table. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher

SILU, GELU_TANH = "silu", "gelu_pytorch_tanh"


@dataclass(frozen=True, slots=True)
class NormNames:
    """The stored names of a layer's norms: before attention, after it, before the MLP, after it; None where is none."""

    attention: str | None = "input_layernorm"
    attention_post: str | None = None
    mlp: str | None = "post_attention_layernorm"
    mlp_post: str | None = None

    @property
    def count(self) -> int:
        """How many norms of the hidden size a layer has."""
        return sum(name is not None for name in (self.attention, self.attention_post, self.mlp, self.mlp_post))


@dataclass(frozen=True, slots=True)
class ExpertNames:
    """How a mixture of experts is named: three fields of config.json, and the tensors of the experts.

    `size` is the field with an expert's inner size, `normalizes` the one that says whether the weights of the chosen
    experts are made to sum to 1; None where they always are.
    """

    count: str
    size: str
    normalizes: str | None
    block: str
    gate: str
    up: str
    down: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """How one architecture differs from the others, with its meaning of fields that a config.json leaves out."""

    families: str
    note: str = ""

    # "none"; "config": as the checkpoint says, for the output projection as well; "input": as it says, yes when it
    # does not, for query, key and value only; "qkv": those three always.
    attention_bias: str = "none"
    mlp_bias: bool = False
    # None: hidden_size / num_attention_heads.
    head_dim: int | None = None
    # With `wide_qk_norm` the norm of queries and that of keys go over all heads at once, not over each.
    qk_norm: bool = False
    wide_qk_norm: bool = False

    # Which layers slide. "none"; "all"; "all_if_used": all, by `use_sliding_window`; "upper": by `use_sliding_window`
    # and then `layer_types`, or from `max_window_layers` on; "pattern": by `layer_types`, or all but each
    # `full_every`-th.
    window: str = "none"
    default_window: int | None = None
    full_every: int = 1

    # The base of rotation, and that of layers that slide where it is another.
    theta: float = 10_000.0
    local_theta: float | None = None
    # How much of a head rotates when the checkpoint does not say; None where it must be all.
    rotary_share: float | None = None
    # Neighbouring dimensions rotate together, not those half a head apart.
    interleaved_rope: bool = False
    # Some layers do not rotate.
    skips_rope: bool = False

    norms: NormNames = NormNames()
    # Added to every stored norm weight.
    norm_offset: float = 0.0
    activation: str = SILU
    experts: ExpertNames | None = None
    tied: bool = False
    # These matrices are stored as one.
    fused_qkv: bool = False
    fused_mlp: bool = False

    # Embeddings are scaled by sqrt(hidden_size); `query_pre_attn_scalar` and the soft caps (scores, logits) count.
    is_gemma: bool = False
    default_soft_caps: tuple[float | None, float | None] = (None, None)
    # The four multipliers of Granite count.
    has_multipliers: bool = False


_GEMMA_NORMS = NormNames(
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"
)

ARCHITECTURES: Mapping[str, Architecture] = {
    "LlamaForCausalLM": Architecture(
        "Llama 2, Llama 3, 3.1, 3.2 and what is built like them",
        "rope scaling of any supported kind",
        attention_bias="config",
        mlp_bias=True,
    ),
    "MistralForCausalLM": Architecture("Mistral 7B", "sliding window", window="all", default_window=4096),
    "Qwen2ForCausalLM": Architecture(
        "Qwen2, Qwen2.5", "sliding window in upper layers", attention_bias="qkv", window="upper"
    ),
    "Qwen3ForCausalLM": Architecture(
        "Qwen3 (dense), amuse",
        "norms on queries and keys",
        attention_bias="config",
        qk_norm=True,
        window="upper",
        head_dim=128,
    ),
    "MixtralForCausalLM": Architecture(
        "Mixtral 8x7B, 8x22B",
        "mixture of experts",
        window="all",
        experts=ExpertNames("num_local_experts", "intermediate_size", None, "block_sparse_moe", "w1", "w3", "w2"),
        theta=1_000_000.0,
    ),
    "Qwen3MoeForCausalLM": Architecture(
        "Qwen3 (mixture of experts)",
        "mixture of experts, norms on queries and keys",
        attention_bias="config",
        qk_norm=True,
        window="all_if_used",
        default_window=4096,
        experts=ExpertNames(
            "num_experts", "moe_intermediate_size", "norm_topk_prob", "mlp", "gate_proj", "up_proj", "down_proj"
        ),
    ),
    "Gemma2ForCausalLM": Architecture(
        "Gemma 2",
        "soft caps, sliding window in every other layer",
        attention_bias="config",
        window="pattern",
        default_window=4096,
        head_dim=256,
        norms=_GEMMA_NORMS,
        norm_offset=1.0,
        activation=GELU_TANH,
        tied=True,
        is_gemma=True,
        full_every=2,
        default_soft_caps=(50.0, 30.0),
    ),
    "Gemma3ForCausalLM": Architecture(
        "Gemma 3 (text)",
        "sliding window in five of six layers, two rotary bases",
        attention_bias="config",
        qk_norm=True,
        window="pattern",
        default_window=4096,
        head_dim=256,
        norms=_GEMMA_NORMS,
        norm_offset=1.0,
        activation=GELU_TANH,
        tied=True,
        is_gemma=True,
        full_every=6,
        theta=1_000_000.0,
        local_theta=10_000.0,
    ),
    "Phi3ForCausalLM": Architecture(
        "Phi-3, Phi-3.5 (text), Phi-4, Phi-4-mini",
        "partial rotation, longrope up to the original context",
        window="all",
        fused_qkv=True,
        fused_mlp=True,
        rotary_share=1.0,
    ),
    "SmolLM3ForCausalLM": Architecture(
        "SmolLM3",
        "layers without rotation",
        attention_bias="config",
        mlp_bias=True,
        window="upper",
        tied=True,
        theta=2_000_000.0,
        skips_rope=True,
    ),
    "GraniteForCausalLM": Architecture(
        "Granite 3 (dense)",
        "multipliers of embeddings, scores, residuals and logits",
        attention_bias="config",
        mlp_bias=True,
        has_multipliers=True,
    ),
    "Glm4ForCausalLM": Architecture(
        "GLM-4 0414",
        "half of each head rotates, in neighbouring pairs",
        attention_bias="input",
        head_dim=128,
        norms=NormNames(
            "input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"
        ),
        fused_mlp=True,
        rotary_share=0.5,
        interleaved_rope=True,
    ),
    "Olmo2ForCausalLM": Architecture(
        "OLMo 2",
        "norms after attention and MLP, and over all queries and all keys",
        attention_bias="config",
        qk_norm=True,
        wide_qk_norm=True,
        norms=NormNames(None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
    ),
}


def nearest(name: str) -> str:
    """The supported architecture whose name is most like `name`, whatever it ends in."""
    stem = name.lower().partition("for")[0]

    def likeness(candidate: str) -> float:
        return SequenceMatcher(None, stem, candidate.lower().partition("for")[0]).ratio()

    return max(ARCHITECTURES, key=likeness)
