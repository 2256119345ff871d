"""Whether two machines have the same model, without reading all of it: digests of its description and of its weights.

Of a file of weights its size, its first megabyte (names, shapes and places of all tensors) and 256 spots spread evenly
over it count. A model that was trained further differs nearly everywhere, so that one spot would do.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from servery.engine.errors import LoadError
from servery.engine.gguf.files import find_gguf, model_files
from servery.engine.json_fields import JsonFields

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_FIRST_BYTES = 1 << 20
_SPOTS, _SPOT_BYTES = 256, 64


def fingerprint(model: Path) -> dict[str, str]:
    """A digest of each file of the model at `model`, by the file's name; raises `LoadError` where there is none."""
    try:
        return {path.name: _digest(path) for path in _files(model)}
    except OSError as error:
        raise LoadError(f"{error.filename or model} cannot be read: {error.strerror or error}.") from error


def difference(ours: dict[str, str], theirs: dict[str, str]) -> str | None:
    """What two fingerprints differ in, for people: "config.json"; None if they are the same."""
    names = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else None


def _files(model: Path) -> Iterator[Path]:
    first = find_gguf(model)
    if first is not None:
        yield from model_files(first)
        return
    yield model / "config.json"
    if (model / _WEIGHTS).exists():
        yield model / _WEIGHTS
        return
    yield model / _INDEX
    places = JsonFields.read(model / _INDEX).raw("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise LoadError(f"{model / _INDEX}: weight_map must be an object of file names. Download it again.")
    yield from sorted({model / Path(name).name for name in places.values()})


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(str(size).encode())
        digest.update(file.read(_FIRST_BYTES))
        for spot in range(_SPOTS):
            digest.update(os.pread(file.fileno(), _SPOT_BYTES, spot * size // _SPOTS))
    return digest.hexdigest()[:16]
