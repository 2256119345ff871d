import json
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationScheme, preset_name_to_scheme
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.utils.quantization_config import CompressedTensorsConfig

from servery.engine.architecture import ModelConfig
from servery.engine.batch import Batch
from servery.engine.errors import LoadError
from servery.engine.kv import KVCache
from servery.engine.loader import load_model
from servery.engine.quantization.config import stored_method
from servery.engine.quantization.scheme import plan_rounding
from servery.engine.quantizer import unfinished
from servery.engine.quantizer.choice import make_quantizer
from servery.engine.quantizer.writer import write_quantized
from servery.engine.weights import WeightReader, open_weights
from tests.engine import checkpoints, tiny_model

TOKENS = torch.randint(3, 250, (40,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_model.save(tmp_path_factory.mktemp("tiny"), intermediate_size=128, num_hidden_layers=4)


def write(model, out, scheme="int4", *, calibration=None, progress=None, **choice):
    plan = plan_rounding(ModelConfig.load(model), scheme, **choice)
    return write_quantized(model, out, plan, calibration, progress=progress)


def logits(model):
    cache = KVCache(model.config, 3, 16, torch.float32)
    return model.logits(model.forward(Batch.build([(TOKENS, 0, [0, 1, 2])], 16), cache))


def loaded(path):
    return load_model(path, ModelConfig.load(path), torch.float32)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Stopped(Exception):
    pass


MODELS = {
    "qwen3": checkpoints.qwen3,
    "tied": lambda **changes: checkpoints.qwen3(tie_word_embeddings=True, **changes),
    "fused": checkpoints.phi3,
    "norm_offset": checkpoints.gemma3,
    "biases": lambda **changes: checkpoints.llama3(attention_bias=True, mlp_bias=True, **changes),
    "reordered_heads": checkpoints.glm4,
}


@pytest.mark.parametrize(
    ("scheme", "method"), [("int8", "round"), ("int4", "round"), ("int4", "awq"), ("fp8", "round")]
)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_what_is_written_loads_as_what_is_quantized_while_loading(make, scheme, method, tiny, tmp_path):
    model = checkpoints.save(make(vocab_size=320), tmp_path / "model")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (model / file).write_bytes((tiny / file).read_bytes())
    write(model, tmp_path / "out", scheme, method=method)
    config = ModelConfig.load(model)
    quantizer = make_quantizer(model, config, plan_rounding(config, scheme, method=method), None)
    expected = load_model(model, config, torch.float32, quantizer=quantizer)
    found = loaded(tmp_path / "out")
    assert torch.equal(logits(found), logits(expected))
    assert found.weight_bytes == expected.weight_bytes


def test_experts_are_written_each(tmp_path):
    model = checkpoints.save(checkpoints.qwen3_moe(), tmp_path / "model")
    write(model, tmp_path / "out", "int4", method="round")
    stored = {name for path in (tmp_path / "out").glob("*.safetensors") for name in load_file(path)}
    assert {"model.layers.2.mlp.experts.5.up_proj.weight_packed", "model.layers.1.mlp.gate.weight"} <= stored
    config = ModelConfig.load(model)
    quantizer = make_quantizer(model, config, plan_rounding(config, "int4", method="round"), None)
    expected = load_model(model, config, torch.float32, quantizer=quantizer)
    assert torch.equal(logits(loaded(tmp_path / "out")), logits(expected))


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_compressed_tensors_reads_the_same_values(scheme, tmp_path):
    """The package that defines the layout; in int4 this model's down projections have 8 bits."""
    model = checkpoints.save(checkpoints.qwen3(), tmp_path / "model")
    write(model, tmp_path / "out", scheme, method="round")
    tensors = {
        name: each for path in (tmp_path / "out").glob("*.safetensors") for name, each in load_file(path).items()
    }
    groups = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["config_groups"]
    config = ModelConfig.load(tmp_path / "out")
    with open_weights(tmp_path / "out", config, torch.float32) as reader:
        for index in range(config.num_layers):
            weights = reader.read(index).matrices
            ours = dict(zip("qkv", weights["qkv"], strict=True)) | {"down": weights["down"][0]}
            names = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "down": "mlp.down_proj"}
            for key, matrix in ours.items():
                prefix = f"model.layers.{index}.{names[key]}."
                state = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
                group = groups["group_1" if scheme == "int4" and key == "down" else "group_0"]
                theirs = PackedQuantizationCompressor.decompress(state, QuantizationScheme(**group))["weight"]
                assert torch.equal(matrix.dequantize(theirs.dtype), theirs)


def test_what_is_written_in_fp8_is_what_vllm_runs_with_inputs_rounded_by_token(tiny, tmp_path):
    """FP8_DYNAMIC by the package that defines it."""
    write(tiny, tmp_path / "out", "fp8")
    fields = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    found = QuantizationScheme(**fields["config_groups"]["group_0"])
    expected = preset_name_to_scheme("FP8_DYNAMIC", ["Linear"])
    kept = {"num_bits", "type", "strategy", "symmetric", "dynamic"}
    for ours, theirs in ((found.weights, expected.weights), (found.input_activations, expected.input_activations)):
        assert ours.model_dump(include=kept) == theirs.model_dump(include=kept)
    assert fields["format"] == "float-quantized"


@pytest.mark.parametrize("scheme", ["int8", "int4", "fp8"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_transformers_computes_the_same_from_what_is_written(scheme, tiny, tmp_path):
    write(tiny, tmp_path / "out", scheme)
    dequantized = CompressedTensorsConfig(dequantize=True)
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, quantization_config=dequantized
    ).eval()
    with torch.inference_mode():
        expected = theirs(torch.tensor([TOKENS])).logits[0]
    torch.testing.assert_close(logits(loaded(tmp_path / "out")), expected, rtol=1e-4, atol=1e-4)


def test_it_says_how_it_is_stored(tiny, tmp_path):
    assert (stored_method(tiny), stored_method(write(tiny, tmp_path / "out").path)) == ("", "compressed-tensors")


def test_everything_but_the_weights_is_taken_along(tiny, tmp_path):
    (tiny / "chat_template.jinja").write_text("{{ messages }}")
    (tiny / "pytorch_model.bin").write_bytes(b"old weights")
    written = write(tiny, tmp_path / "deep" / "out", "int8")
    out = contents(written.path)
    files = {path.name for path in tiny.iterdir()} - {"model.safetensors", "pytorch_model.bin"}
    shards = {f"model-{number:05}-of-00005.safetensors" for number in range(1, 6)}
    assert set(out) == files | shards | {"model.safetensors.index.json", unfinished.SETTINGS_FILE}
    assert all(out[name] == (tiny / name).read_bytes() for name in files - {"config.json"})
    assert written.bytes_after == sum(len(out[name]) for name in shards) < 0.6 * written.bytes_before
    assert not (tmp_path / "deep" / "out.partial").exists()
    index = json.loads(out["model.safetensors.index.json"])
    assert set(index["weight_map"].values()) == shards


def test_progress_ends_at_the_total(tiny, tmp_path):
    seen = []
    write(tiny, tmp_path / "out", "int8", progress=lambda done, total: seen.append((done, total)))
    assert len(seen) == 4
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] == sum(each.nbytes for each in load_file(tiny / "model.safetensors").values())


def test_a_kill_between_two_steps_leaves_nothing_behind(tiny, tmp_path, monkeypatch):
    """Killed when a layer is written and the state before it not yet removed, or in the middle of a file."""
    write(tiny, tmp_path / "whole")

    def killed(self, name):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(unfinished.Unfinished, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            write(tiny, tmp_path / "out")
    (tmp_path / "out.partial" / "half.safetensors.new").touch()
    write(tiny, tmp_path / "out")
    names = [sorted(path.name for path in (tmp_path / each).iterdir()) for each in ("whole", "out")]
    assert names[0] == names[1]


def test_a_state_that_is_lost_is_not_made_up(tiny, tmp_path):
    done = []

    def stop(*_):
        done.append(1)
        if len(done) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tiny, tmp_path / "out", progress=stop)
    (state,) = (tmp_path / "out.partial").glob("calibration-*")
    state.unlink()
    with pytest.raises(LoadError, match="is missing, without which it cannot go on; remove the folder"):
        write(tiny, tmp_path / "out")


def test_a_folder_may_be_named_by_a_dot(tiny, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    assert write(tiny, Path()).bytes_after > 0
    assert (tmp_path / "out" / "config.json").exists()


def test_a_kill_in_the_middle_costs_one_layer_and_no_byte(tiny, tmp_path):
    """`kill -9` after the second layer, then the same command again: the rest, with the bytes of an undisturbed run."""
    write(tiny, tmp_path / "whole")
    program = f"""
import os, pathlib, signal
from servery.engine.architecture import ModelConfig
from servery.engine.quantization.scheme import plan_rounding
from servery.engine.quantizer.writer import write_quantized
done, model = [], pathlib.Path({str(tiny)!r})
def progress(*_):
    done.append(1)
    if len(done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
plan = plan_rounding(ModelConfig.load(model), "int4")
write_quantized(model, pathlib.Path({str(tmp_path / "out")!r}), plan, None, progress=progress)
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -signal.SIGKILL
    partial = tmp_path / "out.partial"
    assert len(list(partial.glob("model-*"))) == 2
    before = {path.name: path.stat().st_mtime_ns for path in partial.glob("model-*")}
    told = []
    write(tiny, tmp_path / "out", progress=lambda *done: told.append(done))
    assert len(told) == 2
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in before} == before


def test_stopping_at_any_file_changes_no_byte(tiny, tmp_path, monkeypatch):
    """Stopped again and again, each time some files later, just before the next one is there under its name."""
    write(tiny, tmp_path / "whole")
    whole, left = unfinished.Unfinished._whole, 0

    def interrupted(self, name):
        nonlocal left
        if left == 0:
            raise Stopped
        left -= 1
        return whole(self, name)

    monkeypatch.setattr(unfinished.Unfinished, "_whole", interrupted)
    attempts = 0
    while not (tmp_path / "out").exists():
        attempts += 1
        left = attempts
        try:
            write(tiny, tmp_path / "out")
        except Stopped:
            assert not (tmp_path / "out").exists()
    assert attempts > 4
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_memory_is_that_of_one_layer(tiny, tmp_path, monkeypatch):
    """No more than one layer's dense weights are alive at any time, besides the one that is being read."""
    alive, most = [], 0
    read = WeightReader.read

    def counted(self, layer, dtype=None):
        nonlocal most
        most = max(most, sum(any(tensor() is not None for tensor in tensors) for tensors in alive))
        weights = read(self, layer, dtype)
        if layer is not None:
            alive.append([weakref.ref(part.weight) for parts in weights.matrices.values() for part in parts])
        return weights

    monkeypatch.setattr(WeightReader, "read", counted)
    write(tiny, tmp_path / "out")
    assert (len(alive), most) == (4, 0)


def test_the_same_again_is_done_at_once_and_anything_else_is_refused(tiny, tmp_path):
    first = write(tiny, tmp_path / "out", "int8")
    times = {path: path.stat().st_mtime_ns for path in first.path.iterdir()}
    assert write(tiny, tmp_path / "out", "int8") == first
    assert {path: path.stat().st_mtime_ns for path in first.path.iterdir()} == times
    with pytest.raises(LoadError, match=r"out exists and is not this model quantized this way; name another folder"):
        write(tiny, tmp_path / "out", "int4")
    with pytest.raises(LoadError, match=r"exists and is not this model"):
        write(tiny, tiny, "int8")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(LoadError, match=r"file exists and is not this model"):
        write(tiny, tmp_path / "file", "int8")


def test_an_empty_folder_is_filled(tiny, tmp_path):
    (tmp_path / "out").mkdir()
    assert (write(tiny, tmp_path / "out", "int8").path / "config.json").exists()


def test_what_was_begun_otherwise_is_not_gone_on_with(tiny, tmp_path):
    def stop(*_):
        raise Stopped

    with pytest.raises(Stopped):
        write(tiny, tmp_path / "out", "int8", progress=stop)
    message = r"out.partial was begun with other scheme and group_size and method and calibration_sha256; remove it"
    with pytest.raises(LoadError, match=message):
        write(tiny, tmp_path / "out", "int4")
    (tmp_path / "other.partial").mkdir()
    (tmp_path / "other.partial" / "letter.txt").write_text("mine")
    with pytest.raises(LoadError, match=r"other.partial is in the way and nothing that can be gone on with"):
        write(tiny, tmp_path / "other", "int8")


def test_two_at_a_time_do_not_mix(tiny, tmp_path):
    seen = []

    def again(*_):
        with pytest.raises(LoadError, match=r"another process writes .*out.partial right now; wait for it"):
            write(tiny, tmp_path / "out", "int8")
        seen.append(1)

    write(tiny, tmp_path / "out", "int8", progress=again)
    assert len(seen) == 4


def test_what_is_no_checkpoint_or_quantized_already_is_refused(tiny, tmp_path):
    with pytest.raises(LoadError, match=r"is not a directory"):
        write(tmp_path / "nowhere", tmp_path / "out")
    written = write(tiny, tmp_path / "int8", "int8")
    with pytest.raises(LoadError, match=r"model.layers.0.self_attn.q_proj is stored quantized already"):
        write(written.path, tmp_path / "again", "int8")
    assert not list(tmp_path.glob("again*"))


def test_where_nothing_can_be_written_is_said_at_once(tiny, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LoadError, match=r"out\.partial cannot be written: Not a directory; name another folder\.$"):
        write(tiny, tmp_path / "file" / "out", "int8")


def test_a_full_disk_is_said_and_what_is_there_is_gone_on_with(tiny, tmp_path, monkeypatch):
    """safetensors has an error of its own for it, which was a traceback."""

    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def when_a_layer_is_there(*_):
        monkeypatch.setattr(unfinished, "save_file", full)

    with pytest.raises(
        LoadError, match=r"00002-of-00005\.safetensors\.new cannot be written: .*No space left.*goes on"
    ):
        write(tiny, tmp_path / "out", "int8", progress=when_a_layer_is_there)
    assert not list(tmp_path.glob("out.partial/*.new"))
    monkeypatch.undo()
    assert contents(write(tiny, tmp_path / "out", "int8").path) == contents(
        write(tiny, tmp_path / "other", "int8").path
    )


def test_a_sample_that_cannot_be_read_leaves_nothing_behind(tiny, tmp_path):
    with pytest.raises(LoadError, match="cannot be read"):
        write(tiny, tmp_path / "out", calibration=tmp_path / "none.txt")
    (tmp_path / "short.txt").write_text("a")
    with pytest.raises(LoadError, match="the calibration text has"):
        write(tiny, tmp_path / "out", calibration=tmp_path / "short.txt")
    assert not list(tmp_path.glob("out*"))
