"""The folder whose models may come while the server runs: checkpoints and GGUF files that lie right in it."""

from collections.abc import Mapping
from pathlib import Path

from servery.engine.gguf.files import SUFFIX, model_name
from servery.server.option_error import OptionError

CONFIG_FILE = "config.json"


def models_in(folder: Path) -> Mapping[str, Path]:
    """The models by their names, which are those of their folders, or of their files without what says it is one.

    Where a folder and a file have the same name, the folder counts. Raises `OptionError` if it cannot be read.
    """
    try:
        paths = sorted(folder.iterdir(), key=lambda path: (not path.is_dir(), path.name))
    except OSError as error:
        raise OptionError(f"--models-dir is '{folder}', which cannot be read: {error.strerror}.") from error
    found: dict[str, Path] = {}
    for path in paths:
        name = path.name if path.is_dir() else model_name(path)
        if name.isprintable() and _is_model(path):
            found.setdefault(name, path)
    return found


def _is_model(path: Path) -> bool:
    if path.is_dir():
        return (path / CONFIG_FILE).is_file() or any(path.glob(f"*{SUFFIX}"))
    return path.suffix == SUFFIX and path.is_file()
