"""Sums are measured by processes of their own, and one that fails is told of."""

import pytest
import torch

from benchmarks.gpu.parts import Machine
from benchmarks.gpu.sum_part import measured, sums


def test_without_two_gpus_it_says_so() -> None:
    rows = list(sums(Machine(torch.device("cpu"), is_dry=True)))
    assert [(row.name, row.value) for row in rows] == [("needs two GPUs: nothing is summed here", 0.0)]


@pytest.mark.slow
def test_two_processes_measure_what_a_sum_takes() -> None:
    cost = measured(2, "cpu")
    assert cost.tokens == 512
    assert min(cost.one_s, cost.many_s) > 0.0


@pytest.mark.slow
def test_a_process_that_fails_is_told_of() -> None:
    with pytest.raises(RuntimeError, match=r"a process that was to sum failed: (.|\n)*--device nowhere"):
        measured(1, "nowhere")
