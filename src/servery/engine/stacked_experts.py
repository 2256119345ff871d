"""Checkpoints in which one tensor holds a matrix of every expert, seen as a tensor for each."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from servery.engine.checkpoint import StoredTensor
from servery.engine.traits import MAX_EXPERTS, Stack

_IN_LAYER = re.compile(r"(model\.layers\.\d+\.)(.+)\Z")


@dataclass(frozen=True, slots=True)
class ExpertSlice:
    """The part of one expert, itself a `StoredTensor`; `whole` has the experts in its first dimension."""

    whole: StoredTensor
    number: int
    is_transposed: bool

    @property
    def path(self) -> Path:
        """The file."""
        return self.whole.path

    @property
    def name(self) -> str:
        """That of the whole, and which expert it is."""
        return f"{self.whole.name}[{self.number}]"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the part; where it is stored transposed, as it would be otherwise."""
        shape = self.whole.shape[1:]
        return shape[::-1] if self.is_transposed else shape

    @property
    def dtype(self) -> str:
        """The type of its values as safetensors calls it."""
        return self.whole.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of its data in the file."""
        return self.whole.nbytes // self.whole.shape[0]

    def load(self) -> Tensor:
        """The data, as mapped."""
        part = self.whole.load()[self.number]
        return part.t() if self.is_transposed else part


def unstacked(stored: Mapping[str, StoredTensor], stacks: Sequence[Stack]) -> dict[str, StoredTensor]:
    """All tensors of `stored` by name; those that `stacks` names give way to one for each expert."""
    by_name = {stack.stored: stack for stack in stacks}
    found: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        in_layer = _IN_LAYER.match(name)
        stack = None if in_layer is None else by_name.get(in_layer[2])
        if in_layer is None or stack is None or not tensor.shape or tensor.shape[0] > MAX_EXPERTS:
            found[name] = tensor
            continue
        for number in range(tensor.shape[0]):
            found[in_layer[1] + stack.part.format(number)] = ExpertSlice(tensor, number, stack.is_transposed)
    return found
