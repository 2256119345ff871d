"""A mixture of experts as a checkpoint's config.json describes it. No torch."""

from dataclasses import dataclass

from servery.engine.json_fields import JsonFields
from servery.engine.traits import MAX_EXPERTS, SOFTMAX, ExpertTraits


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertConfig:
    """A mixture of experts in place of a layer's MLP: a token goes to `per_token` of `count` experts.

    `intermediate_size` is one expert's. `normalizes`: the weights of a token's experts are made to sum to 1; then they
    are multiplied by `scale`. `layers` says of each layer whether it is a mixture. `scores` is how the router's outputs
    become scores; with `is_corrected` a stored number is added to an expert's score when experts are chosen.
    Of `groups` groups of experts only the best `kept_groups` can be chosen from: those whose best expert, or, if
    corrected, whose two best experts together score highest (arXiv 2405.04434, section 2.2.2; 2412.19437, 2.1.2).
    `shared_size` is the inner size of the expert that every token goes to, 0 for none; with `has_shared_gate` its
    output is multiplied by the sigmoid of one more linear layer. With `has_biases` router and experts have biases.
    """

    count: int
    per_token: int
    intermediate_size: int
    normalizes: bool
    layers: tuple[bool, ...]
    scores: str = SOFTMAX
    is_corrected: bool = False
    groups: int = 1
    kept_groups: int = 1
    scale: float = 1.0
    shared_size: int = 0
    has_shared_gate: bool = False
    has_biases: bool = False

    @property
    def group_top(self) -> int:
        """How many experts of a group its rank is made of."""
        return 2 if self.is_corrected else 1

    def expert_parameters(self, hidden_size: int) -> int:
        """The weights of one expert."""
        biases = self.has_biases * (2 * self.intermediate_size + hidden_size)
        return 3 * hidden_size * self.intermediate_size + biases

    def num_parameters(self, hidden_size: int) -> int:
        """The weights of one layer's mixture: experts, router and what all tokens go to."""
        router = hidden_size + self.is_corrected + self.has_biases
        shared = 3 * hidden_size * self.shared_size + self.has_shared_gate * hidden_size
        return self.count * (self.expert_parameters(hidden_size) + router) + shared

    def read_share(self, num_tokens: int) -> float:
        """The share of the experts that `num_tokens` tokens are expected to need, if all are as likely."""
        return 1.0 - (1.0 - self.per_token / self.count) ** num_tokens


def read_experts(fields: JsonFields, traits: ExpertTraits, num_layers: int) -> ExpertConfig | None:
    """Read the mixture; None when no layer is one.

    Raises `LoadError` naming the field that is missing, malformed or not supported.
    """
    layers = _layers(fields, traits, num_layers)
    if not any(layers):
        return None
    # transformers 5 writes the first name for every architecture.
    count_name = "num_local_experts" if fields.has("num_local_experts") else traits.count
    count, per_token = fields.count(count_name, most=MAX_EXPERTS), fields.count("num_experts_per_tok")
    if per_token > count:
        raise fields.error("num_experts_per_tok", f"it must be at most {count_name}, which is {count}")
    is_corrected = traits.correction is not None
    groups, kept_groups = _groups(fields, traits, count, per_token, least=2 if is_corrected else 1)
    size = fields.count(traits.size)
    return ExpertConfig(
        count=count,
        per_token=per_token,
        intermediate_size=size,
        normalizes=_normalizes(fields, traits),
        layers=layers,
        scores=_scores(fields, traits),
        is_corrected=is_corrected,
        groups=groups,
        kept_groups=kept_groups,
        scale=fields.number("routed_scaling_factor", 1.0) if traits.scales else 1.0,
        shared_size=_shared_size(fields, traits, size),
        has_shared_gate=traits.shared_gate is not None,
        has_biases=traits.has_biases,
    )


def _layers(fields: JsonFields, traits: ExpertTraits, num_layers: int) -> tuple[bool, ...]:
    if traits.layers == "step":
        step, dense = fields.count("decoder_sparse_step", 1), _dense_layers(fields)
        return tuple(layer not in dense and (layer + 1) % step == 0 for layer in range(num_layers))
    if traits.layers == "later":
        return _later_layers(fields, traits, num_layers)
    return (True,) * num_layers


def _dense_layers(fields: JsonFields) -> frozenset[int]:
    listed = fields.raw("mlp_only_layers")
    listed = [] if listed is None else listed
    if not isinstance(listed, list) or not all(isinstance(layer, int) and layer >= 0 for layer in listed):
        raise fields.error("mlp_only_layers", "it must be a list of numbers of layers")
    return frozenset(listed)


def _later_layers(fields: JsonFields, traits: ExpertTraits, num_layers: int) -> tuple[bool, ...]:
    if fields.count("moe_layer_freq", 1) != 1:
        raise fields.error("moe_layer_freq", "only 1 is supported: a mixture in every layer after the first ones")
    listed = fields.raw("mlp_layer_types")
    if listed is not None:
        if (
            not isinstance(listed, list)
            or len(listed) != num_layers
            or not all(kind in ("dense", "sparse") for kind in listed)
        ):
            raise fields.error("mlp_layer_types", "it must list dense or sparse for each layer")
        return tuple(kind == "sparse" for kind in listed)
    num_dense = fields.whole("first_k_dense_replace", traits.num_dense)
    return tuple(layer >= num_dense for layer in range(num_layers))


def _scores(fields: JsonFields, traits: ExpertTraits) -> str:
    if fields.raw("scoring_func") not in (None, traits.scores):
        raise fields.error("scoring_func", f"for this architecture only {traits.scores} is supported")
    return traits.scores


def _normalizes(fields: JsonFields, traits: ExpertTraits) -> bool:
    if traits.normalizes == "always":
        return True
    normalizes = fields.flag("norm_topk_prob", traits.normalizes == "yes")
    if normalizes and traits.normalizes == "never":
        raise fields.error("norm_topk_prob", "for this architecture only false is supported")
    return normalizes


def _groups(fields: JsonFields, traits: ExpertTraits, count: int, per_token: int, least: int) -> tuple[int, int]:
    """How many groups of experts there are, and in how many of them experts are chosen."""
    method = fields.raw("topk_method")
    method = traits.methods[0] if method is None else method
    if method not in traits.methods:
        raise fields.error("topk_method", f"for this architecture {' and '.join(traits.methods)} are supported")
    if method == "greedy":
        return 1, 1
    groups, kept = fields.count("n_group"), fields.count("topk_group")
    if count % groups or count // groups < least:
        raise fields.error("n_group", f"it must divide the {count} experts into groups of at least {least}")
    if kept > groups or kept * (count // groups) < per_token:
        raise fields.error("topk_group", f"it must be at most n_group {groups} and leave {per_token} experts to choose")
    return groups, kept


def _shared_size(fields: JsonFields, traits: ExpertTraits, size: int) -> int:
    if traits.shared is None:
        return 0
    if traits.shared_size is not None:
        return fields.count(traits.shared_size)
    return fields.whole("n_shared_experts", 0) * size
