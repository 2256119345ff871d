"""What a folder must have to be a model's."""

from pathlib import Path

from servery.engine.errors import LoadError

EXPECTED = "config.json, tokenizer.json and *.safetensors, as Hugging Face lays models out, or a .gguf file"
_SIGNS = ("config.json", "tokenizer.json", "*.safetensors", "*.safetensors.index.json")
_SHOWN = 5


def check_is_model_folder(folder: Path) -> None:
    """Raise `LoadError`, saying what there is instead, for no folder, or one in which nothing belongs to a model."""
    if not folder.is_dir():
        raise LoadError(
            f"{folder} is not a directory; give one with config.json and *.safetensors in it, or a .gguf file."
        )
    if any(next(folder.glob(sign), None) is not None for sign in _SIGNS):
        return
    names = sorted(path.name for path in folder.iterdir())
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    found = f"it has {', '.join(names[:_SHOWN])}{more}" if names else "it is empty"
    raise LoadError(f"there is no model in {folder}: {found}; expected are {EXPECTED}.")
