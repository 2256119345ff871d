import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from servery.engine.architecture import ModelConfig
from servery.engine.batch import Batch
from servery.engine.errors import LoadError
from servery.engine.kv import KVCache
from servery.engine.loader import load_model
from tests.engine import checkpoints

INDEX = "model.safetensors.index.json"
DOWN = "model.layers.1.mlp.down_proj.weight"
# A norm of a head is kept once for each of the 4 + 2 heads: 2 of them are stored.
NORMS_OF_EVERY_HEAD = 3 * 4 * 32 * 4


@pytest.fixture(scope="module")
def models():
    torch.set_num_threads(1)
    return {"qwen3": checkpoints.qwen3(), "qwen3_tied": checkpoints.qwen3_tied()}


@pytest.fixture
def single(models, tmp_path):
    return checkpoints.save(models["qwen3"], tmp_path)


@pytest.fixture
def sharded(models, tmp_path):
    path = checkpoints.save(models["qwen3"], tmp_path, max_shard_size="200KB")
    assert len(list(path.glob("*.safetensors"))) > 1
    return path


def load(path, dtype=torch.float32, **options):
    return load_model(path, ModelConfig.load(path), dtype, **options)


def logits(model):
    cache = KVCache(model.config, 4, 16, model.dtype)
    return model.logits(model.forward(Batch.build([(list(range(3, 40)), 0, [2, 0, 3])], 16), cache))


def edit(path, change):
    """Rewrite model.safetensors with its tensors changed in place by `change`."""
    tensors = load_file(path / "model.safetensors")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def refusal(path):
    with pytest.raises(LoadError) as caught:
        load(path)
    return str(caught.value)


def test_shards_give_the_same_model_as_one_file(models, single, tmp_path_factory):
    sharded = checkpoints.save(models["qwen3"], tmp_path_factory.mktemp("sharded"), max_shard_size="200KB")
    assert torch.equal(logits(load(sharded)), logits(load(single)))


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16])
def test_any_float_checkpoint_loads_as_any_dtype(stored, wanted, single):
    reference = logits(load(single))
    edit(single, lambda tensors: tensors.update({name: value.to(stored) for name, value in tensors.items()}))
    model = load(single, wanted)
    result = logits(model)
    assert (model.dtype, result.dtype) == (wanted, torch.float32)
    is_exact = stored is wanted is torch.float32
    assert (result - reference).abs().max() <= (0 if is_exact else 0.1) * reference.abs().max()


def test_progress_counts_bytes_up_to_the_total(single):
    seen = []
    model = load(single, torch.bfloat16, progress=lambda done, total: seen.append((done, total)))
    total = model.config.weight_bytes(2)
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)
    assert {total for _, total in seen} == {total}


def test_the_files_may_change_once_the_model_is_loaded(single):
    model = load(single)
    before = logits(model)
    (single / "model.safetensors").write_bytes(b"")
    assert torch.equal(logits(model), before)


def test_a_tied_head_that_was_stored_anyway_and_old_rotary_tensors_are_passed_over(models, tmp_path):
    path = checkpoints.save(models["qwen3_tied"], tmp_path)
    before = logits(load(path))

    def add(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(16)

    edit(path, add)
    assert torch.equal(logits(load(path)), before)


def test_layers_that_only_draft_further_tokens_are_passed_over(tmp_path):
    path = checkpoints.save(checkpoints.deepseek_v3_plain(), tmp_path)
    before = logits(load(path))

    def add(tensors, layer=3):
        tensors[f"model.layers.{layer}.eh_proj.weight"] = torch.ones(64, 128)

    edit(path, add)
    assert torch.equal(logits(load(path)), before)
    edit(path, lambda tensors: add(tensors, 4))
    assert "model.layers.4.eh_proj.weight has no place" in refusal(path)


def test_a_missing_tensor_is_named(single):
    edit(single, lambda tensors: tensors.pop(DOWN))
    assert refusal(single) == f"{single}: model.safetensors lacks tensor {DOWN}. Download it again."


def test_many_missing_tensors_are_counted(single):
    edit(single, lambda tensors: [tensors.pop(name) for name in list(tensors) if ".layers.2." in name])
    assert refusal(single).endswith("and 8 more. Download it again.")


def test_an_untied_model_without_head_is_refused(single):
    edit(single, lambda tensors: tensors.pop("lm_head.weight"))
    assert "lacks tensor lm_head.weight" in refusal(single)


@pytest.mark.parametrize(
    ("make", "lost"),
    [
        (checkpoints.mixtral, "model.layers.2.block_sparse_moe.experts.3.w2.weight"),
        (checkpoints.qwen3_moe, "model.layers.0.mlp.gate.weight"),
        (checkpoints.gemma2, "model.layers.1.pre_feedforward_layernorm.weight"),
        (checkpoints.phi3, "model.layers.1.self_attn.qkv_proj.weight"),
    ],
)
def test_a_missing_tensor_of_any_architecture_is_named(make, lost, tmp_path):
    path = checkpoints.save(make(), tmp_path)
    edit(path, lambda tensors: tensors.pop(lost))
    assert refusal(path) == f"{path}: model.safetensors lacks tensor {lost}. Download it again."


def test_fused_weights_for_other_sizes_are_told_with_both_shapes(tmp_path):
    path = checkpoints.save(checkpoints.phi3(), tmp_path)
    edit(path, lambda tensors: tensors.update({"model.layers.0.mlp.gate_up_proj.weight": torch.ones(200, 64)}))
    assert refusal(path).endswith("gate_up_proj.weight has shape [200, 64]; by config.json it must be [224, 64].")


def test_a_tensor_that_the_model_has_no_place_for_is_named(single):
    edit(single, lambda tensors: tensors.update({"model.layers.3.mlp.up_proj.weight": torch.ones(2)}))
    assert "tensor model.layers.3.mlp.up_proj.weight has no place in the model" in refusal(single)


def test_a_wrong_shape_is_told_with_both_shapes(single):
    edit(single, lambda tensors: tensors.update({DOWN: torch.ones(64, 111)}))
    assert refusal(single).endswith(f"tensor {DOWN} has shape [64, 111]; by config.json it must be [64, 112].")


def test_weights_that_are_not_floats_are_refused(single):
    edit(single, lambda tensors: tensors.update({DOWN: tensors[DOWN].to(torch.int8)}))
    assert f"tensor {DOWN} is stored as I8; weights must be F32, BF16 or F16" in refusal(single)


@pytest.mark.parametrize("keep", [0, 4, 100, 20_000, -1])
def test_a_truncated_file_is_called_damaged(keep, single):
    file = single / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    message = refusal(single)
    assert message.startswith(f"{file} is damaged (")
    assert f"it has {file.stat().st_size} bytes. Download it again." in message


@pytest.mark.parametrize(
    "head", [b"\xff" * 64, b"<!DOCTYPE html><html>not found</html>" * 9, (8).to_bytes(8, "little") + b'{"a": 1}']
)
def test_a_file_that_is_not_safetensors_is_called_damaged(head, single):
    (single / "model.safetensors").write_bytes(head)
    assert "model.safetensors is damaged (" in refusal(single)


def test_a_file_that_cannot_be_opened_is_named(single):
    (single / "model.safetensors").unlink()
    (single / "model.safetensors").mkdir()
    assert refusal(single).startswith(f"{single / 'model.safetensors'} is not a file.")


def test_a_directory_without_weights_is_refused(single):
    (single / "model.safetensors").unlink()
    assert refusal(single) == f"{single} has neither model.safetensors nor {INDEX}."


def test_pickled_weights_are_refused_with_a_way_out(single):
    (single / "model.safetensors").rename(single / "pytorch_model.bin")
    assert refusal(single).endswith("It has pytorch_model.bin: convert them to safetensors.")


def test_a_missing_shard_is_named(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    assert refusal(sharded).startswith(f"{shard} is missing: {INDEX} says that it holds")


def test_a_truncated_shard_is_named(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-8])
    assert refusal(sharded).startswith(f"{shard} is damaged (")


def test_a_shard_without_a_tensor_of_the_index_is_named(sharded):
    shard = min(sharded.glob("*.safetensors"))
    tensors = dict(load_file(shard))
    lost = min(tensors)
    del tensors[lost]
    save_file(tensors, shard)
    assert refusal(sharded) == f"{shard} lacks tensor {lost}, which {INDEX} says it has."


def test_a_tensor_in_two_shards_is_refused(sharded):
    first, second, *_ = sorted(sharded.glob("*.safetensors"))
    tensors = load_file(second)
    name, tensor = next(iter(load_file(first).items()))
    save_file({**tensors, name: tensor}, second)
    assert refusal(sharded) == f"{second}: tensor {name} is in another file of the checkpoint as well."


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "is not valid JSON"),
        ("{}", "weight_map is missing; it must map tensor names to file names"),
        ('{"weight_map": {}}', "weight_map is {}; it must map tensor names to file names"),
        ('{"weight_map": {"a": "../../secret.safetensors"}}', "weight_map places a in '../../secret.safetensors'; it"),
        ('{"weight_map": {"a": 3}}', "weight_map places a in 3; it must be a file name without path"),
    ],
)
def test_a_broken_index_is_refused(index, message, sharded):
    (sharded / INDEX).write_text(index)
    assert message in refusal(sharded)


def test_weights_of_another_size_of_the_family_are_refused(single):
    config = json.loads((single / "config.json").read_text())
    (single / "config.json").write_text(json.dumps(config | {"hidden_size": 128}))
    assert "by config.json it must be" in refusal(single)


def test_a_tensor_of_a_known_module_that_no_format_reads_is_named(single):
    edit(single, lambda tensors: tensors.update({"model.layers.1.mlp.up_proj.scales": torch.ones(2)}))
    assert "tensor model.layers.1.mlp.up_proj.scales has no place in the model" in refusal(single)


@pytest.mark.parametrize("name", ["qwen3", "qwen3_tied"])
def test_the_model_knows_what_its_weights_hold(name, models, tmp_path):
    path = checkpoints.save(models[name], tmp_path)
    assert load(path).weight_bytes == ModelConfig.load(path).weight_bytes(4) + NORMS_OF_EVERY_HEAD
