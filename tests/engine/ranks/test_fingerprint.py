"""The same model has the same fingerprint wherever it lies; another one differs in the files that are others."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from servery.engine.errors import LoadError
from servery.engine.ranks.fingerprint import difference, fingerprint


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def test_a_copy_is_the_same_model(tiny: Path, copy: Path) -> None:
    (copy / "README.md").write_text("not a part of the model")
    assert fingerprint(copy) == fingerprint(tiny)
    assert difference(fingerprint(copy), fingerprint(tiny)) is None


def test_a_model_trained_further_is_another(tiny: Path, copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    save_file({name: values * 1.001 for name, values in weights.items()}, copy / "model.safetensors")
    assert difference(fingerprint(tiny), fingerprint(copy)) == "model.safetensors"


def test_another_description_is_another_model(tiny: Path, copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text()) | {"rope_theta": 5.0}
    (copy / "config.json").write_text(json.dumps(config))
    assert difference(fingerprint(tiny), fingerprint(copy)) == "config.json"


def test_far_ends_of_large_files_count(tmp_path: Path) -> None:
    models = [tmp_path / name / "model.gguf" for name in "ab"]
    for number, model in enumerate(models):
        model.parent.mkdir()
        with model.open("wb") as file:
            file.truncate(3 << 20)
            file.seek(2 << 20)
            file.write(bytes([number]) * 100_000)
    assert difference(*map(fingerprint, models)) == "model.gguf"


def test_every_shard_counts_and_many_differences_are_told_short(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        names = {f"w{number}": f"model-{number}.safetensors" for number in range(5)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
        for tensor, file in names.items():
            save_file({tensor: torch.full((4,), float(name == "a"))}, folder / file)
    ours, theirs = fingerprint(tmp_path / "a"), fingerprint(tmp_path / "b")
    assert len(ours) == 7
    assert difference(ours, theirs) == "model-0.safetensors, model-1.safetensors, model-2.safetensors and 2 more"


@pytest.mark.parametrize("absent", ["config.json", "model.safetensors"])
def test_what_is_missing_is_named(copy: Path, absent: str) -> None:
    (copy / absent).unlink()
    with pytest.raises(LoadError, match=absent.partition(".")[0] + r"\S* cannot be read: No such file"):
        fingerprint(copy)
