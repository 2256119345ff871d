"""Which architectures the decoder runs, and how each differs from the others: a table. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

SILU, GELU_TANH = "silu", "gelu_pytorch_tanh"
SOFTMAX, SIGMOID = "softmax", "sigmoid"


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
class Switch:
    """A flag in config.json, and what it means that it is missing."""

    field: str
    default: bool = False


@dataclass(frozen=True, slots=True)
class ExpertTraits:
    """How the mixtures of experts of one architecture differ from those of the others."""

    # Fields of config.json: how many experts there are, and the inner size of one.
    count: str = "n_routed_experts"
    size: str = "moe_intermediate_size"

    # Which layers are mixtures. "all"; "step": each `decoder_sparse_step`-th, less `mlp_only_layers`; "later": by
    # `mlp_layer_types`, or from `first_k_dense_replace` on, `num_dense` when that is missing.
    layers: str = "all"
    num_dense: int = 0

    # Where tensors are stored: the router, then the experts, of which {} is the number.
    router: str = "mlp.gate"
    gate: str = "mlp.experts.{}.gate_proj"
    up: str = "mlp.experts.{}.up_proj"
    down: str = "mlp.experts.{}.down_proj"

    # Scores by softmax over all experts, or by sigmoid of each.
    scores: str = SOFTMAX
    # A stored number for each expert that is added to its score when experts are chosen, and at no other time.
    correction: str | None = None
    # The values of `topk_method` that are known, of which the first is meant when the field is missing. All but
    # "greedy" choose among the best `topk_group` of `n_group` groups only.
    methods: tuple[str, ...] = ("greedy",)
    # Whether the weights of the chosen experts are made to sum to 1: "always"; "never"; or what `norm_topk_prob` is
    # when it is missing, "yes" or "no".
    normalizes: str = "no"
    # Weights are multiplied by `routed_scaling_factor`.
    scales: bool = False

    # Where the expert of all tokens is stored, if there is one, and what it is multiplied by (the sigmoid of that).
    shared: str | None = None
    shared_gate: str | None = None
    # The field with its inner size; None for `n_shared_experts` times that of an expert.
    shared_size: str | None = None


@dataclass(frozen=True, slots=True)
class Architecture:
    """How one architecture differs from the others, with its meaning of fields that a config.json leaves out."""

    families: str
    note: str = ""

    # Biases: of query, key and value, of the output projection, of the MLP.
    qkv_bias: bool | Switch = False
    output_bias: bool | Switch = False
    mlp_bias: bool | Switch = False
    # None: hidden_size / num_attention_heads.
    head_dim: int | None = None
    # With `wide_qk_norm` the norm of queries and that of keys go over all heads at once, not over each.
    qk_norm: bool | Switch = False
    wide_qk_norm: bool = False

    # Which layers slide. "none"; "refused": none, and `use_sliding_window` must not be set; "all"; "all_if_used": all, by `use_sliding_window`; "upper": by `use_sliding_window`
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

    # What is cached is a latent; its sizes are `kv_lora_rank` and others. Pairs rotate as `rope_interleave` says.
    is_latent: bool = False

    norms: NormNames = NormNames()
    # Added to every stored norm weight.
    norm_offset: float = 0.0
    activation: str = SILU
    experts: ExpertTraits | None = None
    tied: bool = False
    # These matrices are stored as one.
    fused_qkv: bool = False
    fused_mlp: bool = False

    # Embeddings are scaled by sqrt(hidden_size); `query_pre_attn_scalar` and the soft caps (scores, logits) count.
    is_gemma: bool = False
    default_soft_caps: tuple[float | None, float | None] = (None, None)
    # The four multipliers of Granite count.
    has_multipliers: bool = False


_BIAS = Switch("attention_bias")

_GEMMA_NORMS = NormNames(
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"
)

# DeepSeek-V3's routing: scores that a stored number corrects, and groups of experts.
_CORRECTED = ExpertTraits(
    layers="later",
    scores=SIGMOID,
    correction="mlp.gate.e_score_correction_bias",
    methods=("noaux_tc",),
    normalizes="yes",
    scales=True,
    shared="mlp.shared_experts",
)

ARCHITECTURES: Mapping[str, Architecture] = {
    "LlamaForCausalLM": Architecture(
        "Llama 2, Llama 3, 3.1, 3.2 and what is built like them",
        "rope scaling of any supported kind",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        mlp_bias=Switch("mlp_bias"),
    ),
    "MistralForCausalLM": Architecture("Mistral 7B", "sliding window", window="all", default_window=4096),
    "Qwen2ForCausalLM": Architecture("Qwen2, Qwen2.5", "sliding window in upper layers", qkv_bias=True, window="upper"),
    "Qwen3ForCausalLM": Architecture(
        "Qwen3 (dense), amuse",
        "norms on queries and keys",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        qk_norm=True,
        window="upper",
        head_dim=128,
    ),
    "MixtralForCausalLM": Architecture(
        "Mixtral 8x7B, 8x22B",
        "mixture of experts",
        window="all",
        experts=ExpertTraits(
            count="num_local_experts",
            size="intermediate_size",
            normalizes="always",
            router="block_sparse_moe.gate",
            gate="block_sparse_moe.experts.{}.w1",
            up="block_sparse_moe.experts.{}.w3",
            down="block_sparse_moe.experts.{}.w2",
        ),
        theta=1_000_000.0,
    ),
    "Qwen3MoeForCausalLM": Architecture(
        "Qwen3 (mixture of experts)",
        "mixture of experts, norms on queries and keys",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        qk_norm=True,
        window="all_if_used",
        default_window=4096,
        experts=ExpertTraits(count="num_experts", layers="step"),
    ),
    "Qwen2MoeForCausalLM": Architecture(
        "Qwen1.5 and Qwen2 (mixture of experts)",
        "mixture of experts, one of them for all tokens",
        qkv_bias=Switch("qkv_bias", default=True),
        window="refused",
        experts=ExpertTraits(
            count="num_experts",
            layers="step",
            shared="mlp.shared_expert",
            shared_gate="mlp.shared_expert_gate",
            shared_size="shared_expert_intermediate_size",
        ),
    ),
    "DeepseekV2ForCausalLM": Architecture(
        "DeepSeek-V2, V2-Lite, Coder-V2",
        "latent attention, mixture of experts in groups",
        is_latent=True,
        interleaved_rope=True,
        experts=ExpertTraits(
            layers="later",
            methods=("greedy", "group_limited_greedy"),
            normalizes="never",
            scales=True,
            shared="mlp.shared_experts",
        ),
    ),
    "DeepseekV3ForCausalLM": Architecture(
        "DeepSeek-V3, V3.1, R1, Kimi-K2 (text), Moonlight",
        "latent attention, mixture of experts in groups with corrected scores",
        is_latent=True,
        interleaved_rope=True,
        experts=replace(_CORRECTED, num_dense=3),
    ),
    "Glm4MoeLiteForCausalLM": Architecture(
        "GLM-4.7-Flash",
        "as DeepSeek-V3",
        is_latent=True,
        interleaved_rope=True,
        experts=replace(_CORRECTED, num_dense=1),
    ),
    "Glm4MoeForCausalLM": Architecture(
        "GLM-4.5, 4.5-Air, 4.6",
        "mixture of experts with corrected scores, part of each head rotates",
        qkv_bias=_BIAS,
        qk_norm=Switch("use_qk_norm"),
        rotary_share=0.5,
        experts=replace(_CORRECTED, num_dense=1),
    ),
    "Gemma2ForCausalLM": Architecture(
        "Gemma 2",
        "soft caps, sliding window in every other layer",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
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
        qkv_bias=_BIAS,
        output_bias=_BIAS,
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
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        mlp_bias=Switch("mlp_bias"),
        window="upper",
        tied=True,
        theta=2_000_000.0,
        skips_rope=True,
    ),
    "GraniteForCausalLM": Architecture(
        "Granite 3 (dense)",
        "multipliers of embeddings, scores, residuals and logits",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        mlp_bias=Switch("mlp_bias"),
        has_multipliers=True,
    ),
    "Glm4ForCausalLM": Architecture(
        "GLM-4 0414",
        "half of each head rotates, in neighbouring pairs",
        qkv_bias=Switch("attention_bias", default=True),
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
        qkv_bias=_BIAS,
        output_bias=_BIAS,
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
