"""A folder without a model is told as such, not by the first file that is missing."""

from pathlib import Path

import pytest

from servery.engine.architecture import ModelConfig
from servery.engine.errors import LoadError
from servery.engine.model_folder import EXPECTED, check_is_model_folder
from servery.engine.tokenizer import Tokenizer


@pytest.mark.parametrize("load", [ModelConfig.load, Tokenizer.load])
@pytest.mark.parametrize(
    ("names", "found"),
    [
        ((), "it is empty"),
        (("notes.txt", "a.bin"), "it has a.bin, notes.txt"),
        (tuple("abcdefg"), "it has a, b, c, d, e and 2 more"),
    ],
)
def test_a_folder_without_a_model_says_what_is_expected(
    load: object, names: tuple[str, ...], found: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(LoadError) as caught:
        load(tmp_path)  # type: ignore[operator]
    assert str(caught.value) == f"there is no model in {tmp_path}: {found}; expected are {EXPECTED}."


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model-00001-of-00002.safetensors"])
def test_a_part_of_a_model_is_looked_at_further(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    check_is_model_folder(tmp_path)
    with pytest.raises(LoadError, match=r"config\.json"):
        ModelConfig.load(tmp_path)
