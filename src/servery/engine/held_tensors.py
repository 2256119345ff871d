"""Which tensors an object holds, whatever the classes in between: what has to leave memory when a model sleeps."""

import gc
from collections.abc import Iterable, Iterator
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TypeVar

from torch import Tensor

from servery.engine.swap import Region

T = TypeVar("T")

# They lead to all code there is, and through it to everything else.
_CODE = (type, ModuleType, FunctionType, BuiltinFunctionType)


def held(kind: type[T], roots: Iterable[object]) -> list[T]:
    """Every object of a kind that can be reached from `roots`, each once; what these hold in turn is not looked at.

    The interpreter's own account of references is followed, so that a new class of layer needs no code here.
    """
    return list(_reached(kind, list(roots)))


def memory_of(tensors: Iterable[Tensor]) -> list[Region]:
    """The memory behind tensors: once for all that share it, empty ones left out."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    sizes = {each.data_ptr(): each.nbytes() for each in storages if each.device.type == "cpu" and each.nbytes()}
    return [Region(address, nbytes) for address, nbytes in sorted(sizes.items())]


def _reached(kind: type[T], pending: list[object]) -> Iterator[T]:
    seen: set[int] = set()
    while pending:
        each = pending.pop()
        if id(each) in seen or isinstance(each, _CODE):
            continue
        seen.add(id(each))
        if isinstance(each, kind):
            yield each
        elif not isinstance(each, Tensor):
            pending.extend(gc.get_referents(each))
