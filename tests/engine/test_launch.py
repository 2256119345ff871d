"""The arrays of a step as every process and every graph gets them."""

from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.engine.architecture import ModelConfig
from servery.engine.batch import Batch
from servery.engine.device_batch import DeviceBatch
from servery.engine.device_logprobs import likely_tokens
from servery.engine.device_rows import is_limited, pack_rows, sample_greedily
from servery.engine.kv import KVCache
from servery.engine.launch import FIRST_OF_ROWS, SAMPLED, SOURCES, TABLES, Launcher, LaunchShape, pack_step, padded
from servery.engine.loader import LoadTarget, build_decoder
from servery.engine.logit_edits import pack_edits
from servery.engine.packed_arrays import ALIGNMENT, PackedArrays
from servery.engine.request import PENDING_TOKEN, SamplingParams
from servery.engine.sampler import SamplingRow
from servery.engine.weights import open_weights
from tests.engine import checkpoints
from tests.engine.one_device import META, OneDevice, to_meta

CPU = torch.device("cpu")
# What two rows ask for; the first one's newest token is known to the device alone.
SAID = [
    SamplingRow(SamplingParams(logit_bias={3: 1.0}, frequency_penalty=0.5), 1, 9, 2, [4, 5, 6, PENDING_TOKEN]),
    SamplingRow(SamplingParams(allowed_token_ids=(1, 2, 3)), 2, 3, 2, [4, 5, 6], barred=[2]),
]
SPARE, BLOCK_SIZE = 90, 4


def decoding(rows: int) -> list[np.ndarray]:
    """The arrays of a step in which each of some rows decodes a token."""
    batch = Batch.build([([50 + row], 3 * row, list(range(row + 1, 2 * row + 3))) for row in range(rows)], BLOCK_SIZE)
    params = [SamplingParams(temperature=0.5 * row, top_k=row, seed=row) for row in range(rows)]
    sampling = pack_rows([(each, -row, 3 * row + 1) for row, each in enumerate(params)])
    return pack_step(batch, np.arange(rows) - 1, range(rows), sampling)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(st.sampled_from(["<i8", "<i4", "<f4", "|u1"]), st.lists(st.integers(0, 5), max_size=3)), min_size=1
    )
)
def test_what_is_packed_is_there_again(kinds: list[tuple[str, list[int]]]) -> None:
    arrays = [np.arange(int(np.prod(shape))).reshape(shape).astype(dtype) for dtype, shape in kinds]
    packed = PackedArrays.of(arrays)
    for number, (array, tensor) in enumerate(zip(arrays, packed.on(CPU), strict=True)):
        np.testing.assert_array_equal(packed.array(number), array)
        np.testing.assert_array_equal(tensor.numpy(), array)
        assert packed.places[number].start % ALIGNMENT == 0


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.integers(0, 5))
def test_padding_changes_no_row_and_writes_to_the_spare_block_alone(rows: int, more: int) -> None:
    arrays, size = decoding(rows), rows + more
    made = padded(arrays, size, SPARE, BLOCK_SIZE)
    for number, (before, after) in enumerate(zip(arrays, made, strict=True)):
        assert after.dtype == before.dtype, number
        np.testing.assert_array_equal(after[: len(before)], before)
    ids, positions, slots, lens, starts = made[:SOURCES]
    assert (slots[rows:] == SPARE * BLOCK_SIZE).all()
    assert (made[TABLES][rows:] == SPARE).all()
    assert not ids[rows:].any()
    assert not positions[rows:].any()
    assert (lens[rows:] == 1).all()
    assert starts.tolist() == list(range(size + 1))
    assert (made[SOURCES][rows:] == -1).all()
    assert made[SAMPLED].tolist() == list(range(size))
    assert not made[FIRST_OF_ROWS][rows:].any()  # greedy


def test_a_batch_is_the_same_on_a_device() -> None:
    batch = Batch.build([([5, 6, 7], 2, [4, 9]), ([8], 11, [1, 2, 3])], BLOCK_SIZE)
    there = DeviceBatch.of(batch, CPU)
    assert [(e.query_start, e.num_tokens, e.start) for e in there.extents] == [(0, 3, 2), (3, 1, 11)]
    assert [list(e.block_ids)[:2] for e in there.extents] == [[4, 9], [1, 2]]
    assert there.context_lens.tolist() == [5, 12]
    assert there.query_starts.tolist() == [0, 3, 4]
    assert (there.num_rows, there.num_tokens, there.max_query_tokens, there.longest_context) == (2, 4, 3, 12)
    for name in ("input_ids", "positions", "slots"):
        assert torch.equal(getattr(there, name), getattr(batch, name))
    assert there.block_tables.dtype is torch.int32


def test_rows_without_a_finite_logit_get_no_token() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0], [float("nan"), 1.0, 2.0], [-torch.inf] * 3])
    assert sample_greedily(logits, None, limited=False).tolist() == [1, -1, -1]  # type: ignore[arg-type]


def test_only_top_k_and_top_p_have_the_most_likely_tokens_looked_for() -> None:
    assert not is_limited([SamplingParams(min_p=0.1, top_k=500)], 300)
    assert is_limited([SamplingParams(), SamplingParams(top_p=0.9)], 300)
    assert is_limited([SamplingParams(top_k=40)], 300)


def test_a_step_never_waits_for_its_device(tmp_path: Path) -> None:
    """Decoding, and a step with a piece of a prompt too, from the arrays to the next tokens; also if these are chosen
    apart, of edited logits, and their log probabilities are told.
    """
    path = checkpoints.save(checkpoints.qwen3(), tmp_path)
    config = ModelConfig.load(path)
    with open_weights(path, config, torch.float32) as reader:
        model = build_decoder(config, reader, target=LoadTarget(META, to_meta))
    cache = KVCache(config, 16, BLOCK_SIZE, torch.float32, "meta")
    launcher = Launcher(model, model.logits, cache, sample_greedily, 4)
    params = [(SamplingParams(), 1, 9), (SamplingParams(), 2, 3)]
    for rows in ([([-1], 8, [0, 1, 2]), ([-1], 2, [3])], [([-1], 8, [0, 1, 2]), ([5, 6, 7], 0, [3])]):
        batch = Batch.build(rows, BLOCK_SIZE)
        sources = np.where(batch.input_ids.numpy() < 0, 1, -1)
        arrays = PackedArrays.of(pack_step(batch, sources, [0, len(sources) - 1], pack_rows(params)))
        shape = LaunchShape(int(batch.counts.max()), batch.longest_context, 2)
        edits = PackedArrays.of(pack_edits(SAID, [1, -1], config.vocab_size))
        with OneDevice() as mode:
            launched = launcher.launch(arrays, shape)
            apart = launcher.launch(arrays, shape._replace(chooses_apart=True))
            edited = launcher.choose_edited(edits)
            assert edited is not None
            likely_tokens(edited.logits, edited.tokens, 3)
        assert launched.tokens is not None
        assert apart.tokens is None
        assert (launched.tokens.device, launched.tokens.shape) == (META, (2,)) == (META, edited.tokens.shape)
        assert mode.reads == []
