"""The embedded model family: small weights that come with the package, in the Hugging Face layout.

``small`` is the default; ``draft`` guesses ahead for it. Both share one tokenizer. ``TASKS`` are questions held out from
their training, by stratum, for ``servery eval``. ``training/`` makes all of it.
"""

from pathlib import Path

HOME = Path(__file__).parent
SIZES = ("draft", "small", "base")
DEFAULT = "small"
TASKS = HOME / "tasks.jsonl.gz"

__all__ = ["DEFAULT", "HOME", "SIZES", "TASKS", "available", "path"]


def available() -> list[str]:
    """The sizes whose weights are present, smallest first; ``base`` only after it was trained here."""
    return [size for size in SIZES if (HOME / size / "model.safetensors").is_file()]


def path(size: str = DEFAULT) -> Path:
    """The folder of one size, for whoever loads ``config.json``, the weights and ``tokenizer.json``.

    Raises:
        ValueError: the size is unknown, or its weights are not here.
    """
    if size not in SIZES:
        raise ValueError(f"unknown amuse size {size!r}; the sizes are {', '.join(SIZES)}")
    folder = HOME / size
    if not (folder / "model.safetensors").is_file():
        raise ValueError(
            f"amuse size {size!r} has no weights in {folder}; run: python -m training.make_amuse --size {size}"
        )
    return folder
