import os
import re

import numpy as np
import pytest
from gguf import GGUFWriter

from servery.engine.errors import LoadError
from servery.engine.gguf.files import find_gguf, model_files, model_name, open_gguf
from tests.engine.gguf.exporter import finish


def write(path, tensors=5, **options):
    """A model of `tensors` tensors; with `split_max_tensors` in several files."""
    writer = GGUFWriter(path, "llama", **options)
    writer.add_block_count(1)
    for number in range(tensors):
        writer.add_tensor(f"tensor.{number}", np.full(3, number, np.float32))
    finish(writer)
    return path


@pytest.fixture
def split(tmp_path):
    """The files of a model of 5 tensors, 2 to a file."""
    write(tmp_path / "big.gguf", split_max_tensors=2)
    return sorted(tmp_path.glob("*.gguf"))


def refusal(path):
    with pytest.raises(LoadError) as caught:
        open_gguf(path)
    return str(caught.value)


def test_a_file_is_a_model_of_its_own(tmp_path):
    file = write(tmp_path / "small-Q4_K_M.gguf")
    assert (find_gguf(file), model_files(file), model_name(file)) == (file, [file], "small-Q4_K_M")
    assert [info.name for _, info in open_gguf(file).tensors()] == [f"tensor.{number}" for number in range(5)]


def test_a_name_in_capitals_is_one_as_well(tmp_path):
    file = write(tmp_path / "small.gguf").rename(tmp_path / "SMALL-00001-of-00001.GGUF")
    assert (find_gguf(file), find_gguf(tmp_path), model_files(file), model_name(file)) == (file, file, [file], "SMALL")


def test_any_part_names_the_whole_model(split):
    assert [path.name for path in split] == [f"big-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert {find_gguf(path) for path in split} == {split[0]}
    assert (model_files(split[0]), model_name(split[1])) == (split, "big")
    model = open_gguf(split[0])
    assert [(header.path, info.name) for header, info in model.tensors()] == [
        (split[number // 2], f"tensor.{number}") for number in range(5)
    ]
    assert model.tensor("tensor.4").name == "tensor.4"
    assert model.tensor("tensor.5") is None


def test_a_folder_with_one_model_is_that_model(split, tmp_path):
    assert find_gguf(tmp_path) == split[0]


def test_a_folder_with_a_config_is_a_checkpoint(split, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert find_gguf(tmp_path) is None


def test_a_folder_without_gguf_files_is_none(tmp_path):
    assert find_gguf(tmp_path) is None


def test_a_folder_with_two_models_asks_which(split, tmp_path):
    write(tmp_path / "other.gguf")
    with pytest.raises(LoadError, match=rf"{re.escape(str(tmp_path))} has 2 GGUF models .*name the file"):
        find_gguf(tmp_path)


def test_a_missing_part_is_named(split):
    split[1].unlink()
    assert refusal(split[0]) == (f"{split[1]} is missing: the model has 3 files, which must lie together. Download it.")


@pytest.mark.parametrize("name", ["m-00001-of-00000", "m-00000-of-00001", "m-00002-of-00001", "m-00001-of-99999"])
def test_a_number_that_no_part_can_have_is_refused(name, tmp_path):
    with pytest.raises(
        LoadError, match=f"{name}.gguf is by its name file . of .*; files are counted from 1, and 10000"
    ):
        find_gguf(tmp_path / f"{name}.gguf")


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "m.gguf")
    assert refusal(tmp_path / "m.gguf") == f"{tmp_path}/m.gguf is not a file."


def test_a_part_under_another_number_is_refused(split):
    split[1].rename(split[1].with_name("kept"))
    split[2].rename(split[1])
    split[1].with_name("kept").rename(split[2])
    assert f"{split[1]}: split.no is 2; by its name it must be 1" in refusal(split[0])


def test_a_part_that_was_renamed_to_a_whole_is_refused(split, tmp_path):
    alone = split[0].rename(tmp_path / "alone.gguf")
    assert f"{alone}: split.count is 3, but by its name the model has 1 files" in refusal(alone)


def test_a_part_of_another_model_is_refused(split, tmp_path):
    (tmp_path / "other").mkdir()
    write(tmp_path / "other" / "big.gguf", tensors=6, split_max_tensors=2)
    (tmp_path / "other" / split[2].name).replace(split[2])
    assert f"{split[0]}: split.tensors.count is 5, but the files have 6 tensors" in refusal(split[0])
    (tmp_path / "other" / split[1].name).replace(split[2])
    assert "split.no is 1" in refusal(split[0])
