"""What `--quantize` asks for, and what that means for a model's matrices. No torch."""

from collections.abc import Iterable
from dataclasses import dataclass

from servery.engine.architecture import ModelConfig
from servery.engine.errors import LoadError
from servery.engine.weight_map import Source, Target, targets_of

INT8, INT4, FP8 = "int8", "int4", "fp8"
SCHEMES = (INT8, INT4, FP8)
_LISTED = " or ".join((", ".join(SCHEMES[:-1]), SCHEMES[-1]))
ROUND, AWQ = "round", "awq"
METHODS = (ROUND, AWQ)
_METHODS = {ROUND: "rounded as they are", AWQ: "scaled by what a sample of text activates (awq)"}
GROUP_SIZES = (128, 64, 32)

# The choice of experts hangs on small differences, and a router is small, as is the gate of a shared expert. What
# leads out of a latent space is not applied as one layer.
_STAYS_DENSE = frozenset({"router", "shared.gate", "latent.kv_up"})


@dataclass(frozen=True, slots=True)
class Rounding:
    """How one matrix is rounded: codes of `bits`, a scale for each `group_size` columns, None for each row.

    With groups there is a zero point beside the scale. `is_float`: codes are float8 e4m3.
    """

    bits: int
    group_size: int | None = None
    is_float: bool = False

    def num_bytes(self, rows: int, columns: int) -> int:
        """Codes, float32 scales of rows, or bfloat16 scales and 8-bit zero points of groups."""
        codes = rows * columns * self.bits // 8
        return codes + (4 * rows if self.group_size is None else 3 * rows * (columns // self.group_size))


@dataclass(frozen=True, slots=True)
class RoundingPlan:
    """The rounding of each matrix of a model, by the stored module's name; a module that is missing stays dense."""

    scheme: str
    method: str
    group_size: int | None
    roundings: dict[str, Rounding]

    @property
    def description(self) -> str:
        """Such as "int8 by output channel, rounded as they are"."""
        groups = "by output channel" if self.group_size is None else f"in groups of {self.group_size}"
        return f"{self.scheme} {groups}, {_METHODS[self.method]}"

    def weight_bytes(self, config: ModelConfig, bytes_per_value: int) -> int:
        """Memory of the weights when those that stay dense take `bytes_per_value` each."""
        total = config.weight_bytes(bytes_per_value)
        for source in quantized_sources(config):
            rows, columns = source.shape
            total += self.roundings[source.module].num_bytes(rows, columns) - rows * columns * bytes_per_value
        return total


def plan_rounding(
    config: ModelConfig, scheme: str, *, group_size: int | None = None, method: str | None = None
) -> RoundingPlan:
    """Decide for every linear layer. The embedding, the head and a router of experts stay dense.

    int8 and fp8 have a scale per output channel; int4 one per group of input channels: `group_size`, by default the
    largest that divides every matrix. A matrix that no group size divides gets int8. `method` is by default AWQ for int4
    and plain rounding for the others, which lose little. Raises `LoadError` naming a matrix that `group_size` does
    not divide, and the sizes that do.
    """
    method = method or (AWQ if scheme == INT4 else ROUND)
    sources = quantized_sources(config)
    if scheme != INT4:
        rounding = Rounding(8, is_float=scheme == FP8)
        return RoundingPlan(scheme, method, None, {source.module: rounding for source in sources})
    fitting = [source for source in sources if _sizes_for(source.shape[1])]
    if not fitting:
        widths = ", ".join(map(str, sorted({source.shape[1] for source in sources})))
        raise LoadError(
            f"int4 needs matrices whose input features are a multiple of {GROUP_SIZES[-1]}; this model's have {widths}. "
            "Use int8."
        )
    size = _common_size(fitting) if group_size is None else group_size
    _refuse_undivided(fitting, size)
    roundings = {source.module: Rounding(8) for source in sources}
    return RoundingPlan(scheme, method, size, roundings | {each.module: Rounding(4, size) for each in fitting})


def quantized_sources(config: ModelConfig) -> list[Source]:
    """The stored matrices that are quantized: those of the layers' linear layers."""
    return [source for target in targets_of(config) if is_quantized(target) for source in target.sources]


def is_quantized(target: Target) -> bool:
    """Whether a target of `weight_map` is a matrix that is quantized."""
    layer, _, key = target.key.partition(".")
    return layer.isdecimal() and target.is_matrix and key not in _STAYS_DENSE


def check_choice(scheme: str | None, group_size: int | None, method: str | None, has_calibration: bool) -> None:
    """Raise `LoadError` for settings that are unknown or do not go together; each is named like its flag."""
    if scheme is not None and scheme not in SCHEMES:
        raise LoadError(f"quantize is {scheme!r}; choose one of {', '.join(SCHEMES)}.")
    if method is not None and method not in METHODS:
        raise LoadError(f"quantize_method is {method!r}; choose one of {', '.join(METHODS)}.")
    if group_size is not None and group_size not in GROUP_SIZES:
        raise LoadError(f"group_size is {group_size}; choose one of {', '.join(map(str, GROUP_SIZES))}.")
    if scheme is None and (group_size is not None or method is not None or has_calibration):
        name = "group_size" if group_size is not None else "quantize_method" if method is not None else "calibration"
        raise LoadError(f"{name} says how to quantize, but not to what: set quantize to {_LISTED}.")
    if scheme in {INT8, FP8} and group_size is not None:
        raise LoadError(f"group_size is {group_size}, but {scheme} has a scale per output channel; leave it out.")
    if scheme == FP8 and method == AWQ:
        raise LoadError(
            f"{AWQ} scales channels up so that their numbers are rounded less; those of {FP8} are rounded by the same "
            "share however large they are. Leave quantize_method out, or choose int8."
        )
    uses_awq = method == AWQ or (method is None and scheme == INT4)
    if has_calibration and not uses_awq:
        raise LoadError(f"calibration is for the method {AWQ}; set quantize_method to {AWQ}, or leave calibration out.")


def _sizes_for(columns: int) -> list[int]:
    return [size for size in GROUP_SIZES if columns % size == 0]


def _common_size(sources: Iterable[Source]) -> int:
    """The largest size that divides all; the smallest divides every matrix that any size divides."""
    return next(size for size in GROUP_SIZES if all(source.shape[1] % size == 0 for source in sources))


def _refuse_undivided(sources: Iterable[Source], size: int) -> None:
    for source in sources:
        columns = source.shape[1]
        if columns % size:
            working = " and ".join(map(str, sorted(_sizes_for(columns))))
            raise LoadError(
                f"group_size {size} does not divide the {columns} input features of {source.module}; {working} would."
            )
