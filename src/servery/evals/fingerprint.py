"""Which model it was: the hashes of a checkpoint's files, so that a result cannot be passed off as another model's."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from servery.engine.gguf.files import find_gguf, model_files
from servery.evals.errors import OptionError

_WEIGHTS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.gguf",
    "*.GGUF",
    "*.bin",
    "config.json",
    "generation_config.json",
)
_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja",
)  # fmt: skip
_NEEDED = (".safetensors", ".gguf", ".bin")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """SHA-256 of everything that decides what a checkpoint computes, and of everything that makes text to tokens.

    `weights` covers the weights files and the model's configuration. A file with a GGUF brings its own tokenizer.
    """

    path: str
    weights: str
    tokenizer: str

    @classmethod
    def of(cls, folder: Path) -> "Fingerprint":
        """Of a checkpoint's folder or a GGUF file.

        Raises `OptionError` where it has no weights, `OSError` if it cannot be read.
        """
        if folder.is_file():
            return cls._of_gguf(folder)
        weights = _files(folder, _WEIGHTS)
        if not any(path.suffix.lower() in _NEEDED for path in weights):
            raise OptionError(f"{folder} has no weights (*.safetensors, *.gguf, *.bin); name a checkpoint's folder.")
        return cls(str(folder.resolve()), digest(folder, weights), digest(folder, _files(folder, _TOKENIZER)))

    @classmethod
    def _of_gguf(cls, path: Path) -> "Fingerprint":
        """All files of the model, whatever they are called, and what lies beside and goes before its own tokenizer."""
        first = find_gguf(path)
        if first is None:
            raise OptionError(f"{path} is neither a checkpoint's folder nor a .gguf file.")
        beside = [path.parent / name for name in ("chat_template.jinja", "tokenizer.json")]
        weights = "".join(map(sha256_of, model_files(first)))
        tokenizer = digest(path.parent, [file for file in beside if file.is_file()]) + weights
        return cls(str(path.resolve()), *(hashlib.sha256(each.encode()).hexdigest() for each in (weights, tokenizer)))

    def is_same_model(self, other: "Fingerprint") -> bool:
        """Whether both are of the same files, wherever they lie."""
        return (self.weights, self.tokenizer) == (other.weights, other.tokenizer)


def sha256_of(path: Path) -> str:
    """The hash of one file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(folder: Path, files: list[Path]) -> str:
    """One hash over the names and the hashes of `files`."""
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{path.relative_to(folder).as_posix()}\0{sha256_of(path)}\n".encode())
    return whole.hexdigest()


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
