"""What can differ between architectures: the columns of the table in `supported.py`. No torch."""

from dataclasses import dataclass

SILU, GELU_TANH = "silu", "gelu_pytorch_tanh"
SOFTMAX, SIGMOID = "softmax", "sigmoid"

# Twice what llama.cpp allows. Something is made for each of them before any weight is looked at.
MAX_LAYERS, MAX_EXPERTS = 1024, 1024
# Positions are 32-bit whole numbers.
MAX_POSITIONS = 1 << 30


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
class Clamp:
    """The gate of GPT-OSS: g sigmoid(alpha g) (u + 1), g at most `limit`, u between -limit and limit.

    Outputs of gate and up are stored in turns: g is every other one from the first on, u from the second on.
    """

    alpha: float
    limit: float


@dataclass(frozen=True, slots=True)
class Stack:
    """A stored tensor of a layer that holds one of every expert, and what they would be called by themselves.

    In `part` {} is the number of the expert.
    """

    stored: str
    part: str
    is_transposed: bool = False


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
    # Where gate and up are one matrix, its name.
    fused: str | None = None
    # Router and experts have biases.
    has_biases: bool = False
    # Tensors that hold all experts of a layer.
    stacks: tuple[Stack, ...] = ()

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
    # They are called this, and they come after rotation.
    late_qk_norm: bool = False

    # Which layers slide. "none"; "all"; "all_if_used": all, by `use_sliding_window`; "upper": by `use_sliding_window`
    # and then `layer_types`, or from `max_window_layers` on; "pattern": by `layer_types`, or all but each
    # `full_every`-th.
    window: str = "none"
    default_window: int | None = None
    full_every: int = 0

    # The base of rotation, and that of layers that slide where it is another.
    theta: float = 10_000.0
    local_theta: float | None = None
    # How much of a head rotates when the checkpoint does not say; None where it must be all.
    rotary_share: float | None = None
    # Neighbouring dimensions rotate together, not those half a head apart.
    interleaved_rope: bool = False
    # Which layers do not rotate. "none"; "listed": by `no_rope_layers`, or each fourth; "full": those that see
    # everything; "full_if_windowed": those, unless `sliding_window` is null.
    still: str = "none"
    # A scaling called "dynamic" whose `alpha` changes the base, once and for all.
    has_ntk_alpha: bool = False

    # What is cached is a latent; its sizes are `kv_lora_rank` and others. Pairs rotate as `rope_interleave` says.
    is_latent: bool = False

    norms: NormNames = NormNames()
    # Norms subtract the mean first (`layer_norm_eps`).
    centers: bool = False
    # The MLP's input is attention's.
    is_parallel: bool = False
    # Added to every stored norm weight.
    norm_offset: float = 0.0
    activation: str = SILU
    experts: ExpertTraits | None = None
    tied: bool = False
    # These matrices are stored as one.
    fused_qkv: bool = False
    fused_mlp: bool = False

    # Embeddings are scaled by sqrt(hidden_size).
    scales_embedding: bool = False
    # Scores are scaled by 1 / sqrt(`query_pre_attn_scalar`), and this is its default.
    query_scalar: float | None = None
    # The soft caps of scores and logits count, and these are their defaults.
    soft_caps: tuple[float | None, float | None] | None = None
    # The four multipliers of Granite count.
    has_multipliers: bool = False
    # Logits are multiplied by `logit_scale`, and this is its default.
    logit_scale: float | None = None
    # The gate is a `Clamp` by `swiglu_alpha` and `swiglu_limit`.
    clamps: bool = False
    # Each head may look at nothing, by a stored score.
    has_sinks: bool = False
    # Another name of the activation, in old files.
    old_activation: str | None = None
    # Fields that must be missing, null or false.
    refused: tuple[str, ...] = ()
