import pytest
import torch

from servery.engine.architecture import ModelConfig
from servery.engine.batch import Batch
from servery.engine.errors import LoadError
from servery.engine.kv import KVCache
from servery.engine.linear import DenseLinear
from servery.engine.loader import load_model
from servery.engine.quantizer.calibration import CalibrationRun, ObservedLinear, read_sample, sequences_of
from servery.engine.tokenizer import Tokenizer
from servery.engine.weights import open_weights
from tests.engine import checkpoints, tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_model.save(tmp_path_factory.mktemp("tiny"))


def test_the_text_that_comes_with_the_engine_is_enough_for_any_tokenizer(tiny):
    config, tokenizer = ModelConfig.load(tiny), Tokenizer.load(tiny)
    sequences = sequences_of(read_sample(None), tokenizer, config)
    assert (sum(map(len, sequences)), max(map(len, sequences))) == (2048, 256)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"the calibration text .*text.txt cannot be read: No such file"),
        (b"\xff\xfe", r"text.txt is not UTF-8 \(invalid start byte at byte 0\)"),
    ],
)
def test_a_text_that_cannot_be_read_is_named(content, message, tmp_path):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LoadError, match=message):
        read_sample(path)


@pytest.mark.parametrize("text", ["", "hi"])
def test_a_text_that_is_too_short_is_refused(text, tiny):
    with pytest.raises(LoadError, match=r"the calibration text has \d tokens; give at least 32"):
        sequences_of(text, Tokenizer.load(tiny), ModelConfig.load(tiny))


def test_a_tokenizer_of_another_model_is_refused(tiny, tmp_path):
    config = ModelConfig.load(checkpoints.save(checkpoints.qwen3(vocab_size=20), tmp_path))
    with pytest.raises(LoadError, match=r"but the model has 20. Tokenizer and weights belong to different models"):
        sequences_of(read_sample(None), Tokenizer.load(tiny), config)


def test_layer_by_layer_gives_what_the_whole_model_computes(tmp_path):
    path = checkpoints.save(checkpoints.gemma3(), tmp_path)  # layers differ in window and rotation
    config = ModelConfig.load(path)
    tokens = torch.arange(3, 45).tolist()
    with open_weights(path, config, torch.float32) as reader:
        run = CalibrationRun(config, [tokens, tokens[:9]], reader.read(None))
        for index in range(config.num_layers):
            seen = run.run(index, reader.read(index))
    model = load_model(path, config, torch.float32)
    batch = Batch.build([(tokens, 0, [0, 1, 2]), (tokens[:9], 0, [3])], 16)
    cache = KVCache(config, 4, 16, torch.float32)
    expected = model.through_layers(model.embed(batch.input_ids), batch, cache)
    torch.testing.assert_close(run.hidden, expected)
    assert sorted(seen) == ["down", "gate_up", "output", "qkv"]
    assert (seen["down"].rows.shape, seen["qkv"].mean_size.shape) == ((51, 112), (64,))


def test_an_observed_layer_keeps_some_rows_and_the_mean_of_all():
    x = torch.randn(1000, 6, generator=torch.Generator().manual_seed(0))
    inner, seen = DenseLinear(torch.ones(3, 6)), {}
    layer = ObservedLinear(seen, "down", inner)
    residual = torch.ones(1000, 3)
    assert torch.equal(layer(x), inner(x))
    assert torch.equal(layer.add_to(residual, x), inner.add_to(residual, x))
    assert (layer.shape, layer.nbytes) == (inner.shape, inner.nbytes)
    assert torch.equal(seen["down"].rows, x[::4])
    torch.testing.assert_close(seen["down"].mean_size, x.abs().mean(0))
