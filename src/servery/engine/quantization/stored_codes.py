"""The stored tensors of a quantized module, checked: whether there are codes at all, types, shapes, groups, scales."""

import torch
from torch import Tensor

from servery.engine.errors import LoadError
from servery.engine.quantization.format import FLOATS, StoredModule

FLOATS8 = frozenset({"F8_E4M3"})
WORDS = frozenset({"I32"})
SIGNED_BYTES = frozenset({"I8"})
BYTES = frozenset({"U8"})


def has_codes(stored: StoredModule, suffix: str, *, is_skipped: bool, dtypes: frozenset[str] | None = None) -> bool:
    """Whether a module is stored as codes, in the tensor `suffix`, if `dtypes` are given in one of these types.

    What is stored decides: a head that is left alone need not be listed. Raises `LoadError` where config.json says
    that the module is not quantized and it is, and where there are neither codes nor values.
    """
    if suffix not in stored and (is_skipped or "weight" in stored):
        return False
    if dtypes is not None and stored.need(suffix).dtype not in dtypes:
        return False
    if is_skipped:
        raise LoadError(
            f"{stored.need(suffix).path}: tensor {stored.name}.{suffix} holds quantized weights, but quantization_config "
            f"in config.json leaves {stored.name} out. The weights and config.json belong to different models."
        )
    stored.need(suffix)
    return True


def load(stored: StoredModule, suffix: str, shape: tuple[int, ...] | None, dtypes: frozenset[str]) -> Tensor:
    """The tensor `suffix`, of that shape and one of those types, as mapped; raises `LoadError` naming file and tensor."""
    tensor = stored.need(suffix, shape)
    if tensor.dtype not in dtypes:
        raise LoadError(
            f"{tensor.path}: tensor {tensor.name} is stored as {tensor.dtype}; in this format it must be "
            f"{' or '.join(sorted(dtypes))}."
        )
    return tensor.load()


def load_finite(stored: StoredModule, suffix: str, shape: tuple[int, ...] | None, dtypes: frozenset[str]) -> Tensor:
    """As `load`, for scales; raises `LoadError` also if one in a plain floating-point type is infinite or no number."""
    values = load(stored, suffix, shape, dtypes)
    tensor = stored.need(suffix)
    if tensor.dtype in FLOATS and not bool(values.isfinite().all()):
        raise LoadError(
            f"{tensor.path}: tensor {tensor.name} has values that are no finite numbers. Download it again."
        )
    return values


def load_float8(stored: StoredModule, suffix: str, shape: tuple[int, int]) -> Tensor:
    """8-bit floats e4m3 in memory of their own; raises `LoadError` if one is not a number."""
    codes = load(stored, suffix, shape, FLOATS8).clone()
    if bool((codes.view(torch.int8).bitwise_and(127) == 127).any()):
        tensor = stored.need(suffix)
        raise LoadError(f"{tensor.path}: tensor {tensor.name} has values that are not numbers. Download it again.")
    return codes


def number_of_groups(stored: StoredModule, suffix: str, columns: int, group_size: int | None) -> int:
    """How many groups of `group_size` (None: all) the `columns` input channels are; raises `LoadError` if not whole."""
    if group_size is None:
        return 1
    if columns % group_size:
        raise LoadError(
            f"{stored.need(suffix).path}: {stored.name} has {columns} input channels, which groups of {group_size} "
            "(quantization_config in config.json) do not divide."
        )
    return columns // group_size


def check_whole(stored: StoredModule, suffix: str, channels: int, unit: int) -> None:
    """Raise `LoadError` unless the codes of `channels` fill packs of `unit`."""
    if channels % unit:
        raise LoadError(
            f"{stored.need(suffix).path}: {stored.name} has {channels} channels, but {stored.name}.{suffix} packs "
            f"{unit} together; layers with a remainder are not supported."
        )


def group_order(stored: StoredModule, suffix: str, columns: int, groups: int) -> Tensor | None:
    """The group of each input channel [columns] where neighbours do not share one, None where they do."""
    order = load(stored, suffix, (columns,), WORDS)
    if stored.group_columns is not None:  # a part of a module that was looked at
        return None if stored.group_columns == columns else order.clone()
    if bool(((order < 0) | (order >= groups)).any()):
        raise LoadError(
            f"{stored.need(suffix).path}: tensor {stored.name}.{suffix} names groups {int(order.min())} to "
            f"{int(order.max())}, but there are {groups}, counted from 0. Download it again."
        )
    neighbours = torch.arange(columns, dtype=order.dtype) // (columns // groups)
    return None if torch.equal(order, neighbours) else order.clone()


def load_spread(
    stored: StoredModule,
    suffix: str,
    shape: tuple[int, int],
    dtypes: frozenset[str],
    *,
    group_size: int | None = None,
    block: tuple[int, int] | None = None,
) -> Tensor:
    """Scales or zero points for each row and group [N, G] of a matrix `shape`, in memory of their own.

    They are stored for each group, for each `block` (rows, columns; the last may be narrower, G is rounded up), or
    without both for each row or once: G is 1. What one value is repeated to takes no memory.
    """
    rows, columns = shape
    if block is not None:
        spread = load_finite(stored, suffix, (-(-rows // block[0]), -(-columns // block[1])), dtypes)
        return spread.repeat_interleave(min(block[0], rows), dim=0)[:rows]
    if group_size is not None:
        return load_finite(
            stored, suffix, (rows, number_of_groups(stored, suffix, columns, group_size)), dtypes
        ).clone()
    values = load_finite(stored, suffix, None, dtypes)
    if values.shape in {(), (1,), (1, 1)}:
        return values.clone().reshape(1, 1).expand(rows, 1)
    if values.shape not in {(rows,), (rows, 1)}:
        tensor = stored.need(suffix)
        raise LoadError(
            f"{tensor.path}: tensor {tensor.name} has shape {list(tensor.shape)}; by config.json it must be "
            f"[{rows}, 1], or [1] for the whole tensor."
        )
    return values.clone().reshape(rows, 1)
