import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from servery.engine.architecture import ModelConfig
from servery.engine.step import Scheduled, Step
from servery.engine.step_sizes import STEP_SIZES
from servery.engine.step_work import RATE_S, StepOperations, StepWork
from tests.engine import checkpoints


def prompt_step(count):
    return Step((Scheduled(None, 0, count, True),), num_tokens=count)


@pytest.mark.parametrize("name", ["llama2", "qwen3_tied", "mixtral"])
def test_operations_are_those_that_torch_counts_in_transformers(name, tmp_path):
    """All but what attention masks, which torch counts: every pair of positions. Norms are a part of so small a model."""
    model = getattr(checkpoints, name)()
    model.set_attn_implementation("eager")
    model.set_experts_implementation("eager")
    config = ModelConfig.load(checkpoints.save(model, tmp_path))
    counted = StepOperations(config)
    for count in (1, 7):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            model(torch.full((1, count), 5), logits_to_keep=1, use_cache=False)
        masked = counted.per_pair * count * (count - 1) // 2
        assert counted.of(prompt_step(count)) == pytest.approx(counter.get_total_flops() - masked, rel=0.01)


def test_steps_are_counted_and_sorted_by_size():
    work = StepWork()
    for size in (1, 2, 8, 9, 16384, 16385):
        work.add(size, 0.5, 10, 20)
    assert (work.steps, work.step_s, work.step_tokens, work.read_bytes, work.operations) == (6, 3.0, 32789, 60, 120)
    assert dict(zip((*STEP_SIZES, None), work.step_sizes, strict=True)) == {
        **dict.fromkeys((*STEP_SIZES, None), 0), 1: 1, 8: 2, 16: 1, 16384: 1, None: 1,
    }  # fmt: skip


def test_rates_are_of_the_last_seconds_of_steps():
    work = StepWork()
    assert (work.bytes_per_s, work.operations_per_s) == (None, None)
    for _ in range(100):
        work.add(1, 0.01, 100, 400)
    assert (work.bytes_per_s, work.operations_per_s) == (pytest.approx(10_000), pytest.approx(40_000))
    for _ in range(int(10 * RATE_S / 0.01)):
        work.add(1, 0.01, 300, 0)
    assert (work.bytes_per_s, work.operations_per_s) == (pytest.approx(30_000, rel=0.01), pytest.approx(0, abs=5))
