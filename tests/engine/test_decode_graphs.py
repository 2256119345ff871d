"""Steps that are captured and run again give what they give one by one; a stand-in for CUDA records and repeats them."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from servery.engine.capture import Captured
from servery.engine.config import EngineConfig
from servery.engine.constraint import Constraint, ConstraintKind
from servery.engine.core import EngineCore
from servery.engine.decode_graphs import DecodeGraphs, spare_block
from servery.engine.graph_buckets import buckets
from servery.engine.request import NewRequest, Output, SamplingParams

PROMPTS = [[7 + (3 * row * position) % 250 for position in range(4 + 7 * row)] for row in range(5)]


class ByTables:
    """Attention that knows of a step only what lies on the device, as kernels do."""

    def __init__(self, config) -> None:
        self._config = config

    def plan(self, batch, cache) -> "ByTables":
        width = -(-batch.longest_context // cache.block_size)
        tables = batch.block_tables[:, :width].long()
        slots = tables[:, :, None] * cache.block_size + torch.arange(cache.block_size)
        self._slots, self._cache, self._batch = slots.flatten(1), cache, batch
        return self

    def attend(self, layer: int, query: Tensor) -> Tensor:
        config, batch = self._config, self._batch
        counts = batch.query_starts.diff()
        rows = torch.repeat_interleave(torch.arange(len(counts)), counts, output_size=len(query))
        places = batch.context_lens[rows] - batch.query_starts[1:][rows] + torch.arange(len(query))
        held = self._cache.layers[layer][self._slots[rows]]  # [tokens, slots, 2, kv_heads, head_dim]
        keys, values = held.permute(2, 0, 3, 1, 4)
        mask = (torch.arange(held.shape[1]) <= places[:, None])[:, None, None]
        q = query.view(len(query), config.num_heads, 1, config.head_dim)
        return F.scaled_dot_product_attention(q, keys, values, mask, enable_gqa=True).flatten(1)


class Recorder:
    """In the place of CUDA: work is run to warm up, and again at each replay; it reads and writes where it did."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0

    def __call__(self, work: Callable[[], None]) -> Captured:
        self.captured += 1
        work()

        def replay() -> None:
            self.replayed += 1
            work()

        return Captured(replay, 1000)


def core_of(model: Path, capture: Callable[..., Captured] | None) -> EngineCore:
    config = EngineConfig(model=model, threads=1, max_model_len=256, kernels="torch", max_running=5, block_size=4)
    core = EngineCore(config, ahead=True)
    if capture is None:
        return core
    decoder, launcher = core.model, core._ahead._launcher
    launcher._model = decoder.with_attention(ByTables(decoder.config))
    launcher._logits = launcher._model.logits
    launcher.graphs = DecodeGraphs(launcher, core.cache, 256, capture)
    core._ahead._buckets = buckets(5)
    core.scheduler.pool.take(1, spare_block(core.cache) - 1)  # nobody is given the last block
    return core


def run(core: EngineCore, **changes: object) -> dict[str, list[int]]:
    """Sequences that end one after the other, so that steps shrink from bucket to bucket; the last has `changes`."""
    for number, prompt in enumerate(PROMPTS):
        settings = {"max_tokens": 5 + 6 * number, "ignore_eos": True, "temperature": 0.0}
        params = SamplingParams(**(settings | (changes if number == 4 else {})))
        core.add(NewRequest(request_id=f"r{number}", prompt=prompt, params=params), number)
    outputs: list[Output] = []
    while core.has_work:
        outputs += core.step()
    texts: dict[str, list[int]] = {}
    for output in outputs:
        texts.setdefault(output.request_id, []).extend(output.token_ids)
    return texts


def test_captured_steps_give_the_tokens_of_those_that_are_not(tiny: Path) -> None:
    recorder = Recorder()
    core = core_of(tiny, recorder)
    assert run(core) == run(core_of(tiny, None))
    # 5, 4, 3 (in that of 4), 2 and 1 rows.
    assert recorder.captured == core.stats().graphs == 4
    assert recorder.replayed > 20
    assert core.stats().graph_bytes > 4000
    again = run(core)
    assert recorder.captured == 4
    assert again == run(core_of(tiny, None))


WORD = Constraint(kind=ConstraintKind.REGEX, text="[a-z]{20,22}")


@pytest.mark.parametrize(
    "changes",
    [{"repetition_penalty": 1.4, "logit_bias": {9: 2.0}, "max_tokens": 15, "logprobs": 1}, {"constraint": WORD}],
    ids=["penalties", "form"],
)
def test_steps_of_which_tokens_are_chosen_apart_are_captured_up_to_there(tiny: Path, changes: dict) -> None:
    """One row that says something of tokens: the others' tokens are what they were, and graphs are launched still."""
    recorder = Recorder()
    core = core_of(tiny, recorder)
    expected, plain = run(core_of(tiny, None), **changes), run(core_of(tiny, None))
    assert run(core, **changes) == expected
    assert {key: row for key, row in expected.items() if key != "r4"} == {
        key: row for key, row in plain.items() if key != "r4"
    }
    assert expected["r4"] != plain["r4"]
    # With it in the step: of 8 rows (5), of 4 and so on, as long as it lives; chosen apart and not are graphs of their own.
    assert recorder.replayed >= 14
    captured = recorder.captured
    assert run(core) == plain
    assert recorder.captured > captured


def test_the_smallest_step_is_captured_before_the_first_request(tiny: Path) -> None:
    recorder = Recorder()
    core = core_of(tiny, recorder)
    core._ahead._launcher.graphs.prepare()
    assert (recorder.captured, recorder.replayed) == (1, 0)
    assert run(core) == run(core_of(tiny, None))
    assert recorder.captured == 4


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("operation not permitted when stream is capturing"), "cannot be captured"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "Lower --max-running, or --kv-memory"),
    ],
)
def test_a_step_that_cannot_be_captured_is_launched_all_the_same(
    tiny: Path, caplog: pytest.LogCaptureFixture, error: Exception, told: str
) -> None:
    """Warming up has overwritten the tokens that the step is fed with; they are put back."""

    def refused(work: Callable[[], None]) -> Captured:
        work()
        raise error

    with caplog.at_level(logging.WARNING):
        assert run(core_of(tiny, refused)) == run(core_of(tiny, None))
    assert [told in record.message for record in caplog.records] == [True]
