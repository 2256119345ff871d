"""What a compressed-tensors checkpoint says of its weights: one scheme for each group of modules. No torch."""

from dataclasses import dataclass

from servery.engine.json_fields import JsonFields
from servery.engine.quantization.module_names import matches

# `pack-quantized` packs codes into words of 32 bits, the others store one per element.
PACKED = "pack-quantized"
_FORMATS = (PACKED, "int-quantized", "float-quantized", "naive-quantized")


@dataclass(frozen=True, slots=True)
class CompressedScheme:
    """How the weights of some modules are stored.

    `targets` are module names, patterns (`re:...`) or the class `Linear`. A scale is shared by `group_size` input
    channels, by a `block` (rows, columns), or without both by an output channel or the whole tensor: the scales' shape
    tells. `is_ordered`: each module says which group an input channel belongs to. `rounds_input`: the layer runs with
    its input rounded to int8 per row.
    """

    targets: tuple[str, ...]
    format: str
    bits: int
    is_float: bool
    is_symmetric: bool
    group_size: int | None
    block: tuple[int, int] | None
    is_ordered: bool
    rounds_input: bool


@dataclass(frozen=True, slots=True)
class CompressedTensorsConfig:
    """`quantization_config` of a checkpoint by llm-compressor, in the package's own words (compressed_tensors).

    `ignored` are the modules that no scheme applies to, as names or patterns.
    """

    schemes: tuple[CompressedScheme, ...]
    ignored: tuple[str, ...]

    @classmethod
    def read(cls, fields: JsonFields) -> "CompressedTensorsConfig":
        """Read `quantization_config`."""
        sparsity = fields.inner("sparsity_config")
        if sparsity is not None:
            sparsity.choice("format", ("dense",), "dense")
        transform = fields.inner("transform_config")
        if transform is not None and transform.raw("config_groups"):
            raise fields.error("transform_config", "transforms of activations are not supported")
        groups = fields.inner("config_groups")
        if groups is None or not groups.names():
            raise fields.error("config_groups", "it must map names to schemes")
        # A scheme may name a format of its own; otherwise this one is for all.
        default = fields.choice("format", (*_FORMATS, "mixed-precision"))
        inner = [(name, groups.inner(name)) for name in groups.names()]
        schemes = tuple(_scheme(each, default) for _, each in inner if each is not None)
        return cls(schemes, fields.strings("ignore"))

    def scheme_of(self, module: str) -> CompressedScheme | None:
        """The scheme of a linear layer: the one that names it, else one with a pattern for it, else that of its class.

        None for a module that is ignored or that no scheme is for.
        """
        if any(_names(each, module) for each in self.ignored):
            return None
        for rank in (_is_name, _is_pattern, _is_class):
            for scheme in self.schemes:
                if any(rank(target) and _names(target, module) for target in scheme.targets):
                    return scheme
        return None


def _is_name(target: str) -> bool:
    return not _is_pattern(target) and not _is_class(target)


def _is_pattern(target: str) -> bool:
    return target.startswith("re:")


def _is_class(target: str) -> bool:
    return target == "Linear"


def _names(target: str, module: str) -> bool:
    if _is_pattern(target):
        return matches(target.removeprefix("re:"), module)
    return target in {module, "Linear"}


def _scheme(fields: JsonFields, default_format: str) -> CompressedScheme:
    weights = fields.inner("weights")
    if weights is None:
        raise fields.error("weights", "only schemes that quantize weights are supported")
    if fields.has("output_activations"):
        raise fields.error("output_activations", "quantized outputs are not supported")
    targets = fields.strings("targets")
    if not targets:
        raise fields.error("targets", "it must list modules, patterns (re:...) or Linear")
    own = None if default_format == "mixed-precision" else default_format
    is_float = weights.choice("type", ("int", "float"), "int") == "float"
    strategy = _strategy(weights, is_float)
    return CompressedScheme(
        targets=targets,
        format=fields.choice("format", _FORMATS, own),
        bits=weights.count_of("num_bits", (8,) if is_float else (4, 8), 8),
        is_float=is_float,
        is_symmetric=weights.flag("symmetric", True),
        group_size=weights.count("group_size") if strategy == "group" else None,
        block=weights.block("block_structure") if strategy == "block" else None,
        is_ordered=weights.raw("actorder") in (True, "group", "dynamic"),
        rounds_input=_rounds_input(fields, is_float),
    )


def _strategy(weights: JsonFields, is_float: bool) -> str:
    """What a scale is for; without the field it follows from the size of groups."""
    size = weights.raw("group_size")
    default = "tensor" if size is None else "channel" if size == -1 else "group"
    supported = ("tensor", "channel", "group", "block") if is_float else ("tensor", "channel", "group")
    return weights.choice("strategy", supported, default)


def _rounds_input(fields: JsonFields, is_float: bool) -> bool:
    """Whether inputs are rounded to int8. Those of 8-bit float layers may stay as they are: that loses nothing."""
    inputs = fields.inner("input_activations")
    if inputs is None:
        return False
    inputs.count_of("num_bits", (8,), 8)
    inputs.choice("type", ("float",) if is_float else ("int",), "int")
    return not is_float
