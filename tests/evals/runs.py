"""Runs as tests write them: a header and items, without asking anybody."""

from collections import Counter
from pathlib import Path

import msgspec

from servery.evals import results
from servery.evals.computed import Computed
from servery.evals.fingerprint import Fingerprint
from servery.evals.results import Header, Item, Results, TaskSet

TASKS_SHA256 = "0" * 64
COMPUTED = Computed(kernels="native-avx2", dtype="float32", weight_dtype="int8", kv_dtype="float32")


def header(strata: dict[str, int], **changes: object) -> Header:
    """The header of a run over tasks with these numbers per stratum."""
    found = Header(tasks=TaskSet("t.jsonl", TASKS_SHA256, strata), target="http://localhost", model="m", version="1")
    return msgspec.structs.replace(found, **changes)


def save(
    path: Path, outcomes: dict[str, list[bool | None]], checkpoint: Path | None = None, **changes: object
) -> Results:
    """A file of results; `outcomes` are right, wrong or (None) failed, per stratum; `changes` go to its header."""
    items = [
        Item(id=f"{stratum}/{at}", stratum=stratum, is_right=right, text=f"{right}", error="x: y" if right is None else None)
        for stratum, of_one in outcomes.items()
        for at, right in enumerate(of_one)
    ]  # fmt: skip
    head = header(dict(Counter(item.stratum for item in items)), **changes)
    if checkpoint is not None:
        head = msgspec.structs.replace(head, checkpoint=Fingerprint.of(checkpoint))
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in (head, *items)))
    return results.read(path)


def paired(both: int, lost: int, gained: int, neither: int) -> tuple[list[bool | None], list[bool | None]]:
    """The outcomes of a baseline and of a candidate with these counts."""
    one = [True] * both + [True] * lost + [False] * gained + [False] * neither
    other = [True] * both + [False] * lost + [True] * gained + [False] * neither
    return [*one], [*other]


def checkpoint(folder: Path, weights: bytes = b"w") -> Path:
    """A folder that has the files of a checkpoint, with no sense in them."""
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    return folder
