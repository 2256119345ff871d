from collections import deque
from dataclasses import dataclass
from functools import partial

import torch

from servery.engine.held_tensors import held, memory_of
from servery.engine.swap import Region


@dataclass(frozen=True, slots=True)
class Layer:
    weight: torch.Tensor
    rest: object


class Model:
    def __init__(self, *parts: object) -> None:
        self._parts = parts
        self.me = self  # a circle

    def forward(self) -> None: ...


def test_tensors_are_found_whatever_holds_them() -> None:
    tensors = [torch.ones(3) * number for number in range(6)]
    a, b, c, d, e, f = tensors
    model = Model(Layer(a, {"key": [b]}), partial(torch.mul, other=c), deque([d]), Model(e).forward)
    found = {tensor.data_ptr() for tensor in held(torch.Tensor, [model, f, f])}
    assert found == {tensor.data_ptr() for tensor in tensors}


def test_what_is_found_is_not_looked_into_and_code_leads_nowhere() -> None:
    inner = Model(torch.ones(3))
    assert held(Model, [[inner], torch, test_tensors_are_found_whatever_holds_them, Layer]) == [inner]


def test_memory_that_is_shared_counts_once() -> None:
    whole = torch.ones(1000)
    regions = memory_of([whole[10:], whole.view(10, 100), torch.empty(0)])
    assert regions == [Region(whole.data_ptr(), 4000)]
