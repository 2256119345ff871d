"""Metadata that describe no model that can be served, and facts that no key states."""

import contextlib
import math

import numpy as np
import pytest
from gguf import GGUFWriter, RopeScalingType
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.engine.architecture import ModelConfig
from servery.engine.errors import LoadError
from servery.engine.gguf.config import KEYS
from servery.engine.gguf.families import FAMILIES
from tests.engine.gguf.exporter import finish

PLAIN = {
    "context_length": 512,
    "embedding_length": 64,
    "block_count": 2,
    "feed_forward_length": 112,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-6,
}


def write(path, name="llama", tensors=(), tokens=(), general=None, **values):
    """A file with metadata for `name`, the embedding, and enough tensors for its layers."""
    writer = GGUFWriter(path / "model.gguf", name)
    fields = PLAIN | {key.replace("__", "."): value for key, value in values.items()}
    for key, value in fields.items():
        add(writer, f"{name}.{key}", value)
    for key, value in (general or {}).items():
        add(writer, key, value)
    if tokens:
        writer.add_token_list(list(tokens))
    shapes = {"token_embd.weight": (300, 64)} | {f"filler.{i}": (1,) for i in range(70)} | dict(tensors)
    for tensor, shape in shapes.items():
        if shape is not None:
            values = np.full(shape, 2.0, np.float32) if isinstance(shape, tuple) else np.array(shape, np.float32)
            writer.add_tensor(tensor, values)
    finish(writer)
    return path / "model.gguf"


def add(writer, key, value):
    if value is None:
        return
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_uint32(key, value)


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("qwen33", {}, 'general.architecture is "qwen33"; supported are llama, '),
        ("qwen33", {}, "the nearest by name is qwen3."),
        ("llama", {"general": {"general.type": "adapter"}}, 'general.type is "adapter"; only language models'),
        ("llama", {"block_count": None}, "llama.block_count is missing; it must be a whole number of at least 1"),
        ("llama", {"context_length": None}, "llama.context_length is missing; it must be a whole number"),
        ("llama", {"feed_forward_length": [1, 2]}, 'llama.feed_forward_length is "a list of 2 numbers"; it must be'),
        ("llama", {"attention.head_count": 0}, "llama.attention.head_count is 0; it must be a whole number of at least"),
        ("llama", {"attention.head_count_kv": 3}, "llama.attention.head_count_kv is 3; it must divide"),
        ("llama", {"attention.key_length": 17}, "llama.attention.key_length is 17; rotary embeddings need an even"),
        ("llama", {"attention.value_length": 8}, "llama.attention.value_length is 8; it must be key_length, 16"),
        ("llama", {"attention.layer_norm_rms_epsilon": -1.0}, "llama.attention.layer_norm_rms_epsilon is -1.0; it must"),
        ("llama", {"block_count": 4_000_000_000}, "llama.block_count is 4000000000; it must be at most 1024"),
        ("qwen3moe", {"expert_count": 4_000_000_000}, "qwen3moe.expert_count is 4000000000; it must be at most 1024"),
        ("llama", {"tokens": ["x"] * 301}, "token_embd.weight has rows for 300 tokens only"),
        ("llama", {"rope.scaling.type": "magic"}, "llama.rope.scaling.type is \"magic\"; supported rope types are"),
        ("llama", {"rope.scaling.type": "linear"}, "llama.rope.scaling.factor is missing; it must be a number greater than 0"),
        ("llama", {"rope.dimension_count": 8}, "llama.rope.dimension_count is 8; only 1, which rotates all of a head"),
        ("llama", {"tensors": {"token_embd.weight": None}}, "has no matrix token_embd.weight"),
        ("llama", {"tensors": {"rope_freqs.weight": (65,)}}, "tensor rope_freqs.weight must be a short list"),
        ("olmo2", {"attention.sliding_window": 64}, "olmo2.attention.sliding_window is 64; OLMo 2 has no sliding"),
        ("qwen3moe", {"expert_count": 4}, "qwen3moe.expert_used_count is missing; it must be a whole number"),
        ("llama", {"general": {"tokenizer.ggml.eos_token_id": "end"}}, 'eos_token_id is "end"; it must be a token id'),
    ],
)  # fmt: skip
def test_metadata_that_cannot_be_served_are_refused_by_key(name, changes, complaint, tmp_path):
    path = write(tmp_path, name, **changes)
    with pytest.raises(LoadError) as caught:
        ModelConfig.load(path)
    assert str(caught.value).startswith(str(path))
    assert complaint in str(caught.value)


def test_factors_beyond_the_end_of_the_file_are_refused(tmp_path):
    path = write(tmp_path, tensors={"rope_freqs.weight": (8,)})
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(np.full(8, 2.0, np.float32).tobytes())])
    with pytest.raises(LoadError, match=r"ends at byte \d+, in tensor rope_freqs.weight. It is truncated"):
        ModelConfig.load(path)


def test_the_vocabulary_is_as_long_as_the_embedding(tmp_path):
    assert ModelConfig.load(write(tmp_path, vocab_size=7)).vocab_size == 300


def test_a_head_is_tied_unless_it_is_stored(tmp_path):
    assert ModelConfig.load(write(tmp_path)).tie_embeddings
    assert not ModelConfig.load(write(tmp_path, tensors={"output.weight": (300, 64)})).tie_embeddings


@pytest.mark.parametrize(("name", "layers"), [("gemma2", 46), ("gemma3", 62)])
def test_the_largest_gemma_has_the_scale_that_no_key_states(name, layers, tmp_path):
    values = {"attention.key_length": 32, "attention.value_length": 32, "attention.sliding_window": 8}
    large = ModelConfig.load(write(tmp_path, name, **values, block_count=layers))
    other = ModelConfig.load(write(tmp_path, name, **values, block_count=layers - 1))
    assert [large.attention_scale, other.attention_scale] == pytest.approx([(64 / 4) ** -0.5, 32**-0.5])


def test_gemma3_slides_in_five_of_six_layers_unless_the_file_says_otherwise(tmp_path):
    values = {"attention.sliding_window": 8, "block_count": 7}
    plain = ModelConfig.load(write(tmp_path, "gemma3", **values))
    every_third = ModelConfig.load(write(tmp_path, "gemma3", **values, attention__sliding_window_pattern=3))
    listed = [True, False] * 3 + [True]
    by_list = ModelConfig.load(write(tmp_path, "gemma3", **values, attention__sliding_window_pattern=listed))
    assert plain.windows == (8,) * 5 + (None, 8)
    assert every_third.windows == (8, 8, None, 8, 8, None, 8)
    assert by_list.windows == (8, None) * 3 + (8,)


def test_granite_without_multipliers_is_scaled_as_usual(tmp_path):
    config = ModelConfig.load(write(tmp_path, "granite"))
    assert (config.attention_scale, config.embedding_scale, config.logit_divisor) == (0.25, 1.0, 1.0)


def test_yarn_comes_with_its_bounds(tmp_path):
    values = {"rope.scaling.type": RopeScalingType.YARN.value, "rope.scaling.factor": 4.0}
    values |= {"rope.scaling.original_context_length": 128, "rope.scaling.yarn_beta_fast": 16.0}
    rope = ModelConfig.load(write(tmp_path, **values)).ropes[0]
    assert (rope.kind, rope.factor, rope.original_max_position, rope.beta_fast) == ("yarn", 4.0, 128, 16.0)
    assert rope.attention_factor == pytest.approx(0.1 * math.log(4) + 1)


def test_the_old_key_of_linear_scaling_counts(tmp_path):
    rope = ModelConfig.load(write(tmp_path, **{"rope.scale_linear": 2.0})).ropes[0]
    assert (rope.kind, rope.factor) == ("linear", 2.0)


def test_every_token_that_ends_a_turn_ends_an_answer(tmp_path):
    general = {"tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.eot_token_id": 2, "tokenizer.ggml.eom_token_id": 4}
    tokens = ["<|end_of_text|>", "x", "custom", "<|eot_id|>", "<|eom_id|>", "<|user|>"]
    assert ModelConfig.load(write(tmp_path, general=general, tokens=tokens)).eos_token_ids == {0, 2, 3, 4}


ANYTHING = st.one_of(
    st.integers(0, 70),
    st.integers(0, (1 << 32) - 1),
    st.floats(width=32),
    st.booleans(),
    st.sampled_from(["", "linear", "yarn", "none", "x"]),
    st.lists(st.integers(0, 3), min_size=1, max_size=4),
)
OTHER_KEYS = [
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scale_linear",
    "attention.value_length",
]


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from([*FAMILIES]),
    values=st.dictionaries(st.sampled_from([*KEYS.values(), *OTHER_KEYS]), ANYTHING, min_size=1, max_size=3),
)
def test_whatever_the_metadata_say_there_is_a_config_or_an_error(name, values, tmp_path_factory):
    path = write(tmp_path_factory.getbasetemp(), name, **values)
    with contextlib.suppress(LoadError):
        assert ModelConfig.load(path).vocab_size == 300
