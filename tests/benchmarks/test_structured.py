"""The comparison of grammar libraries, with the one that is always there."""

import json
from pathlib import Path
from typing import Any

from benchmarks.structured import DOCUMENTS, Llguidance, Vocabulary, coverage, mask_times


def suite(folder: Path, *cases: dict[str, Any]) -> Path:
    place = folder / "tests" / "draft2020-12"
    place.mkdir(parents=True)
    (place / "some.json").write_text(json.dumps(cases))
    return folder


def case(name: str, schema: Any, **documents: bool) -> dict[str, Any]:
    tests = [{"data": json.loads(text), "valid": valid} for text, valid in documents.items()]
    return {"description": name, "schema": schema, "tests": tests}


def test_each_case_is_counted_by_what_came_of_it(tmp_path: Path) -> None:
    folder = suite(
        tmp_path,
        case("exact", {"type": "integer"}, **{"1": True, '"x"': False}),
        case("incomplete", {"const": {"a": 1, "b": 2}}, **{'{"b": 2, "a": 1}': True, "{}": False}),
        case("refused", {"not": {}}, **{"1": False}),
        case("wrong on purpose", {"type": "integer"}, **{"2": False}),
    )
    assert coverage(Llguidance(Vocabulary.of([])), folder) == {
        "cases": 4, "enforced": 2, "exact": 1, "refused": 1, "broken": 1, "broken_cases": ["some: wrong on purpose"],
    }  # fmt: skip


def test_every_document_is_written_with_the_longest_tokens() -> None:
    vocabulary = Vocabulary.of([b'": "', b"Ada Lovelace", b" chairs"])
    assert vocabulary.encode(b'x": "Ada Lovelace') == [ord("x"), 256, 257]
    figures = mask_times(Llguidance(vocabulary), vocabulary)
    assert {name: row["tokens"] for name, row in figures.items()} == {
        name: len(vocabulary.encode(json.dumps(document).encode())) for name, (_, document) in DOCUMENTS.items()
    }
    assert all(row["max_us"] >= row["p50_us"] > 0 for row in figures.values())
