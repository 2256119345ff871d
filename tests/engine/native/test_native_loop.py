"""The native loop computes what the torch decoder does, for every trait that a plan can have, and each row by itself."""

import logging

import pytest
import torch

from servery.engine.architecture import ModelConfig
from servery.engine.batch import Batch
from servery.engine.doorbell import Doorbell, Interrupted, Interruption
from servery.engine.kv import KVCache
from servery.engine.kv_format import BFLOAT16, FLOAT32, FP8, INT8
from servery.engine.loader import load_model
from servery.engine.quantization.scheme import plan_rounding
from servery.engine.quantizer.quantizer import Quantizer
from tests.engine import checkpoints
from tests.engine.native.kernels import VARIANTS, context, require

pytestmark = pytest.mark.parametrize("variant", VARIANTS)
BLOCK = 8
# Of each trait of a plan at least one: norms of either kind, in each place, over heads, wide and late; biases, scalings,
# gates, embeddings tied and not, windows, soft caps, layers side by side; sizes that fill no vector.
MODELS = {
    "qwen3_tied": checkpoints.qwen3_tied,
    "uneven": lambda: checkpoints.qwen3(hidden_size=44, intermediate_size=52, head_dim=48, vocab_size=250),
    "gemma2": checkpoints.gemma2,
    "gemma3": checkpoints.gemma3,
    "cohere2": checkpoints.cohere2,
    "hunyuan": lambda: checkpoints.hunyuan(head_dim=32),
    "granite_with_biases": checkpoints.granite_with_biases,
    "olmo3": checkpoints.olmo3,
    "smollm3_sliding": checkpoints.smollm3_sliding,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a model by its name, in float32 or with weights that bfloat16 holds, written once."""
    made = {}

    def of(name, dtype=torch.float32):
        if (name, dtype) not in made:
            make = MODELS.get(name) or checkpoints.MODELS[name]
            made[name, dtype] = checkpoints.save(make().to(dtype), tmp_path_factory.mktemp(name))
        return made[name, dtype]

    return of


def load(path, dtype=torch.float32, native=None, quantizer=None):
    torch.set_num_threads(1)
    return load_model(path, ModelConfig.load(path), dtype, native=native, quantizer=quantizer)


# (tokens, start, blocks) of rows, step after step: pieces of prompts, newest tokens, drafts.
TOKENS = [(7 * i * i + 3 * i) % 240 + 3 for i in range(90)]
STEPS = [
    [(TOKENS[:50], 0, range(12)), (TOKENS[20:33], 0, range(20, 30))],
    [(TOKENS[50:51], 50, range(12)), (TOKENS[33:40], 13, range(20, 30)), (TOKENS[:1], 0, [15])],
    [(TOKENS[51:80], 51, range(12)), (TOKENS[40:41], 20, range(20, 30))],
]


def run(model, steps=STEPS, kv_format=FLOAT32):
    """The logits of all steps' tokens, and the cache."""
    cache = KVCache(model.config, 32, BLOCK, model.dtype, kv_format=kv_format)
    rows = [model.logits(model.forward(Batch.build(step, BLOCK), cache)) for step in steps]
    return torch.cat(rows), cache


def difference(ours, theirs):
    return float((ours - theirs).abs().max() / theirs.abs().max())


def spread(ours, exact):
    return float((ours - exact).square().mean().sqrt())


@pytest.mark.parametrize("name", MODELS)
def test_float32_is_the_decoders_within_its_rounding(variant, name, saved):
    native = load(saved(name), native=context(require(variant), 2))
    assert native.loop is not None
    expected, cache = run(load(saved(name)))
    logits, ours = run(native)
    assert difference(logits, expected) <= 1e-5
    assert all(torch.allclose(a, b, atol=1e-4, rtol=1e-5) for a, b in zip(ours.layers, cache.layers, strict=True))


@pytest.mark.parametrize("name", ["qwen3_tied", "gemma3", "cohere2"])
def test_bfloat16_is_nearer_to_exact_than_operations_that_round_each_time(variant, name, saved):
    """The loop rounds inputs of linears, keys and values, all else is float32: as a sum of fewer such errors its own is
    smaller in the mean. No logit is off by more than the bound that the torch decoder has."""
    path = saved(name, torch.bfloat16)
    native = load(path, torch.bfloat16, context(require(variant)))
    exact, _ = run(load(path))
    ours, _ = run(native, kv_format=BFLOAT16)
    theirs, _ = run(native.with_loop(None), kv_format=BFLOAT16)
    assert spread(ours, exact) < spread(theirs, exact)
    assert difference(ours, exact) <= 0.05


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_codes_give_what_they_give_operation_by_operation(variant, scheme, saved):
    """Inputs are rounded to 8 bits alike, but for those within float32's rounding of two codes."""
    path = saved("qwen3_tied")
    config = ModelConfig.load(path)
    plan = plan_rounding(config, scheme, group_size=16)
    native = load(path, native=context(require(variant)), quantizer=Quantizer(config, plan, None))
    exact, _ = run(load(path, quantizer=Quantizer(config, plan, None)))
    assert native.loop is not None
    ours, theirs = run(native)[0], run(native.with_loop(None))[0]
    assert spread(ours, exact) <= 1.05 * spread(theirs, exact)
    assert spread(ours, theirs) <= 0.2 * spread(theirs, exact)


def test_keys_and_values_of_8_bits_are_written_as_torch_writes_them(variant, saved):
    native = load(saved("qwen3_tied"), native=context(require(variant), 2))
    expected, theirs = run(native.with_loop(None), kv_format=INT8)
    logits, ours = run(native, kv_format=INT8)
    # The first layer is given the same, and so within float32's rounding its keys and values are.
    codes = (ours.layers[0].int() - theirs.layers[0].int()).abs()
    assert int(codes.max()) <= 1
    assert float((codes > 0).float().mean()) <= 1e-3
    assert torch.allclose(ours.scales[0].float(), theirs.scales[0].float(), rtol=2**-7)
    assert difference(logits, expected) <= 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["qwen3_tied", "gemma3"])
def test_a_tokens_row_depends_on_its_own_sequence_only(variant, name, dtype, saved):
    """Not on who shares its steps, on how its prompt is cut, or on threads."""
    path = saved(name)
    alone = load(path, dtype, context(require(variant)))
    whole, _ = run(alone, [[(TOKENS[:80], 0, range(12))]])
    for threads in (1, 3):
        together, _ = run(load(path, dtype, context(variant, threads)))
        pieces = (together[:50], together[63:64], together[72:101])
        assert torch.equal(torch.cat(pieces), whole)


def test_numbers_that_overflow_spoil_nobody_else(variant, saved):
    native = load(saved("qwen3_tied"), native=context(require(variant)))
    expected, _ = run(native, [[(TOKENS[:20], 0, [0, 1, 2])]])
    cache = KVCache(native.config, 32, BLOCK, native.dtype)
    for layer in cache.layers:
        layer.fill_(float("nan"))
    cache.layers[0][8 * BLOCK :] = float("inf")
    rows = [(TOKENS[:20], 0, [0, 1, 2]), (TOKENS[:1], 9, [8, 9])]
    logits = native.logits(native.forward(Batch.build(rows, BLOCK), cache))
    assert torch.equal(logits[:20], expected)
    assert not logits[20].isfinite().any()


def test_keys_that_are_not_finite_show_in_8_bits_too(variant, saved):
    native = load(saved("uneven"), native=context(require(variant)))
    native._embedding.dense[7] = float("nan")
    cache = KVCache(native.config, 4, BLOCK, native.dtype, kv_format=INT8)
    native.forward(Batch.build([([5, 7, 5], 0, [0])], BLOCK), cache)
    assert cache.scales[0][:3].isfinite().all(dim=(1, 2)).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mixtral", "layer 0 is a mixture of experts"),
        ("deepseek_v3_plain", "there is no kernel for its attention"),
        ("mistral", "there is no kernel for its attention"),
    ],
)
def test_what_has_no_plan_is_computed_operation_by_operation_and_said_once(variant, name, reason, saved, caplog):
    with caplog.at_level(logging.INFO, logger="servery.engine.loader"):
        native = load(saved(name), native=context(require(variant)))
    assert native.loop is None
    said = f"computing operation by operation, not step by step, which is slower for small models: {reason}"
    assert caplog.messages == [said]
    expected, _ = run(load(saved(name)))
    assert difference(run(native)[0], expected) <= 1e-5


def test_a_cache_that_no_kernel_reads_is_torchs(variant, saved):
    native = load(saved("qwen3_tied"), native=context(require(variant)))
    expected, _ = run(native.with_loop(None), kv_format=FP8)
    assert torch.equal(run(native, kv_format=FP8)[0], expected)


def test_layers_that_somebody_changes_are_not_the_loops(variant, saved):
    native = load(saved("qwen3_tied"), native=context(require(variant)))
    assert native.adapted(lambda name, linear: linear).loop is None
    assert native.with_attention(native.attention).loop is None


def test_tokens_that_are_not_there_are_refused(variant, saved):
    native = load(saved("uneven"), native=context(require(variant)))
    with pytest.raises(ValueError, match=r"^token ids up to 250; this model has 250 tokens\.$"):
        run(native, [[([3, 250], 0, [0])]])


def test_a_step_that_is_left_can_be_run_again(variant, saved):
    native, bell = load(saved("qwen3_tied"), native=context(require(variant))), Doorbell(-1)
    expected, _ = run(native)
    cache = KVCache(native.config, 32, BLOCK, native.dtype, kv_format=FLOAT32)
    rows = []
    for step in STEPS:
        batch, waiting = Batch.build(step, BLOCK), Interruption(bell, bell.rings)
        bell.ring()
        with pytest.raises(Interrupted):
            native.forward(batch, cache, waiting)
        rows.append(native.logits(native.forward(batch, cache, Interruption(bell, bell.rings))))
    assert torch.equal(torch.cat(rows), expected)


def test_steps_tell_where_their_time_went(variant, saved):
    native = load(saved("qwen3_tied"), native=context(require(variant)))
    told = {}
    native.loop.listen(lambda name, seconds: told.setdefault(name, []).append(seconds))
    run(native)
    assert {name: len(seconds) for name, seconds in told.items()} == dict.fromkeys(("linears", "attention", "rest"), 3)
    assert all(each > 0 for seconds in told.values() for each in seconds)
    native.loop.listen(None)
    run(native)
    assert len(told["rest"]) == 3
