"""The files of a GGUF model: one, or several whose names end in -00001-of-00003.gguf. Pure Python."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from servery.engine.errors import LoadError
from servery.engine.gguf.header import Header, TensorInfo, Value, read_header
from servery.engine.json_fields import JsonFields

SUFFIX = ".gguf"
MAX_FILES = 10_000

_SPLIT_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<end>(?i:\.gguf))\Z")


def find_gguf(path: Path) -> Path | None:
    """The first GGUF file of the model at `path`, None where `path` is something else.

    `path` is a file that ends in .gguf (of a split model any one), or a directory without config.json in which one
    model lies. Raises `LoadError` when there are several.
    """
    if is_gguf(path):
        return _first_of(path)
    if not path.is_dir() or (path / "config.json").exists():
        return None
    models = sorted({_first_of(file) for file in path.iterdir() if is_gguf(file)})
    if len(models) > 1:
        names = ", ".join(model.name for model in models[:3])
        raise LoadError(f"{path} has {len(models)} GGUF models ({names} ...); name the file that you want.")
    return models[0] if models else None


def is_gguf(path: Path) -> bool:
    """Whether `path` is a GGUF file by its name, in capitals or not; it may not exist."""
    return path.suffix.lower() == SUFFIX and not path.is_dir()


def model_name(path: Path) -> str:
    """What to call the model in the GGUF file `path`: its name without .gguf and without the number of a part."""
    split = _SPLIT_NAME.match(path.name)
    return split["stem"] if split else path.name[: -len(SUFFIX)]


def model_files(path: Path) -> list[Path]:
    """All files of the model of which `path` is one; none has been opened. Raises `LoadError` for an impossible name."""
    split = _SPLIT_NAME.match(path.name)
    if split is None:
        return [path]
    stem, number, count = split["stem"], int(split["number"]), int(split["count"])
    if not 1 <= number <= count <= MAX_FILES:
        raise LoadError(
            f"{path} is by its name file {number} of {count}; files are counted from 1, and {MAX_FILES} are the most."
        )
    return [path.with_name(f"{stem}-{number:05}-of-{count:05}{split['end']}") for number in range(1, count + 1)]


@dataclass(frozen=True, slots=True)
class GgufModel:
    """The headers of all files of a model. The metadata of the first counts; a tensor lies in one of them."""

    headers: tuple[Header, ...]

    @property
    def path(self) -> Path:
        """The first file."""
        return self.headers[0].path

    @property
    def metadata(self) -> Mapping[str, Value]:
        """The first file's."""
        return self.headers[0].metadata

    @property
    def fields(self) -> JsonFields:
        """The metadata to be read key by key; errors name file and key."""
        return JsonFields(self.path, self.metadata)

    def tensors(self) -> Iterator[tuple[Header, TensorInfo]]:
        """Every tensor with the header of the file that holds it."""
        return ((header, info) for header in self.headers for info in header.tensors.values())

    def tensor(self, name: str) -> TensorInfo | None:
        """The tensor of this name, None if there is none."""
        return next((header.tensors[name] for header in self.headers if name in header.tensors), None)


def open_gguf(path: Path) -> GgufModel:
    """Read the headers of the model whose first file is `path`; raises `LoadError` for a damaged or missing file."""
    first = read_header(path)
    files = model_files(path)
    count = JsonFields(path, first.metadata).raw("split.count")
    if count not in (None, 1, len(files)) or (count is None and len(files) > 1):
        raise LoadError(
            f"{path}: split.count is {count}, but by its name the model has {len(files)} files. The parts of a split "
            "model must keep their names: NAME-00001-of-0000N.gguf."
        )
    headers = (first, *(_read_part(file, number, len(files)) for number, file in enumerate(files[1:], 1)))
    _check_tensors(headers)
    return GgufModel(headers)


def _first_of(path: Path) -> Path:
    return model_files(path)[0]


def _read_part(path: Path, number: int, count: int) -> Header:
    if not path.exists():
        raise LoadError(f"{path} is missing: the model has {count} files, which must lie together. Download it.")
    header = read_header(path)
    if header.metadata.get("split.no") != number:
        raise LoadError(
            f"{path}: split.no is {header.metadata.get('split.no')}; by its name it must be {number}. It is a part of "
            "another model, or was renamed."
        )
    return header


def _check_tensors(headers: tuple[Header, ...]) -> None:
    """A tensor may be in one file only, and all files together must have as many as the first one says."""
    first, total = headers[0], sum(len(header.tensors) for header in headers)
    if len({name for header in headers for name in header.tensors}) != total:
        raise LoadError(f"{first.path}: a tensor is in two files of the model. They do not belong together.")
    promised = first.metadata.get("split.tensors.count", total)
    if promised != total:
        raise LoadError(f"{first.path}: split.tensors.count is {promised}, but the files have {total} tensors.")
