"""llguidance and xgrammar side by side: which JSON schemas they enforce, and what a mask costs.

Coverage: every case of the JSON-Schema-Test-Suite (draft 2020-12, a checkout is given) is compiled. A case is *enforced*
if all its invalid documents are refused, *exact* if also all valid ones are accepted, *refused* if the library says that
it cannot, and *broken* if an invalid document gets through: what a model writes then may not validate. llguidance is
asked as Servery asks it, xgrammar with its own defaults.

Masks: documents of several schemas are written token by token with vocabularies of real size (the commonest words of the
Python files on this machine, with all single bytes); what computing a mask and taking a token took is told per token.

python -m benchmarks.structured SUITE [--vocabularies 32000 128000] [--rounds 5]

SUITE is a checkout of github.com/json-schema-org/JSON-Schema-Test-Suite. Figures of xgrammar are there if this Python has
it (`pip install xgrammar`; Servery does not need it).
"""

import argparse
import importlib.util
import json
import re
import statistics
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import llguidance
import numpy as np
from llguidance.numpy import fill_next_token_bitmask
from rich.console import Console
from rich.table import Table

from benchmarks.result import publish
from servery.engine.errors import InvalidRequest
from servery.engine.structure.grammar import json_grammar

_PIECE = re.compile(rb" ?[A-Za-z_]+| ?[0-9]{1,3}|[ \n\t]+|[^\sA-Za-z0-9_]{1,4}")
_TEXT_BYTES = 60_000_000  # of Python files, read for the vocabulary

_TEXT = {"type": "string"}
DOCUMENTS: dict[str, tuple[dict[str, Any], Any]] = {
    "person": (
        {
            "type": "object",
            "properties": {
                "name": _TEXT,
                "age": {"type": "integer", "minimum": 0},
                "email": {**_TEXT, "format": "email"},
            },
            "required": ["name", "age", "email"],
            "additionalProperties": False,
        },
        {"name": "Ada Lovelace", "age": 36, "email": "ada@example.org"},
    ),
    "order": (
        {
            "type": "object",
            "properties": {
                "order_id": {**_TEXT, "pattern": "^[A-Z]{2}-[0-9]{6}$"},
                "lines": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "article": _TEXT,
                            "price": {"type": "number"},
                            "state": {"enum": ["open", "sent"]},
                        },
                        "required": ["article", "price", "state"],
                        "additionalProperties": False,
                    },
                },
                "note": {"anyOf": [_TEXT, {"type": "null"}]},
            },
            "required": ["order_id", "lines", "note"],
            "additionalProperties": False,
        },
        {
            "order_id": "AB-004711",
            "lines": [
                {"article": "a long wooden table", "price": 129.5, "state": "open"},
                {"article": "four chairs", "price": 240, "state": "sent"},
            ],
            "note": "please ring the bell twice, it is old and does not always work",
        },
    ),
    "any object": (
        {"type": "object"},
        {"title": "A day at the sea", "tags": ["sea", "sun", "sand"], "rating": {"stars": 4, "by": None, "fair": True}},
    ),
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens as bytes, and their ids; the last one ends a text."""

    tokens: list[bytes]
    ids: dict[bytes, int]

    @classmethod
    def of(cls, tokens: Sequence[bytes]) -> "Vocabulary":
        """A vocabulary of single bytes, other `tokens`, and an end."""
        every = [*(bytes([byte]) for byte in range(256)), *tokens, b"<|end|>"]
        return cls(every, {token: at for at, token in enumerate(every)})

    @property
    def end(self) -> int:
        """The id of the end token."""
        return len(self.tokens) - 1

    @classmethod
    def of_size(cls, size: int) -> "Vocabulary":
        """All single bytes and the commonest pieces of the Python files of this installation."""
        counts: Counter[bytes] = Counter()
        left = _TEXT_BYTES
        for path in sorted(Path(sysconfig.get_paths()["purelib"]).rglob("*.py")) + _standard_library():
            text = path.read_bytes()[:left]
            counts.update(_PIECE.findall(text))
            left -= len(text)
            if left <= 0:
                break
        common = [piece for piece, _ in counts.most_common() if 1 < len(piece) <= 24]
        return cls.of(common[: size - 257])

    def encode(self, text: bytes) -> list[int]:
        """The longest token that fits, again and again."""
        ids = self.ids
        result, at = [], 0
        while at < len(text):
            length = next(n for n in range(24, 0, -1) if text[at : at + n] in ids)
            result.append(ids[text[at : at + length]])
            at += length
        return result


def _standard_library() -> list[Path]:
    return sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))


class Matcher(Protocol):
    """A text being written."""

    def fill(self) -> None:
        """Compute the mask of what may come next."""

    def take(self, token: int) -> bool:
        """Go on with a token; False if it is not allowed."""

    def may_end(self) -> bool:
        """Whether the text is complete."""


class Library(Protocol):
    """A library of grammars with one vocabulary."""

    def matcher(self, schema: Any) -> Matcher | None:
        """A new text of the schema; None if the library says that it cannot enforce it."""


class Llguidance:
    """llguidance as Servery uses it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Tokens(vocabulary)))
        self._end = vocabulary.end
        self._bits = np.zeros((1, vocabulary.end // 32 + 1), dtype=np.int32)

    def matcher(self, schema: Any) -> Matcher | None:
        """None as well for what Servery refuses itself."""
        if not isinstance(schema, dict):
            return None
        try:
            inner = llguidance.LLMatcher(self._tokenizer, json_grammar(json.dumps(schema)), log_level=0)
        except InvalidRequest:
            return None
        return None if inner.is_error() else _LlguidanceMatcher(inner, self._bits)


class _Tokens:
    def __init__(self, vocabulary: Vocabulary) -> None:
        self.eos_token_id, self.bos_token_id = vocabulary.end, None
        self.tokens, self.special_token_ids = vocabulary.tokens, [vocabulary.end]
        self._encode = vocabulary.encode

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text.encode() if isinstance(text, str) else text)


class _LlguidanceMatcher:
    def __init__(self, inner: llguidance.LLMatcher, bits: "np.ndarray[Any, np.dtype[np.int32]]") -> None:
        self._inner, self._bits = inner, bits

    def fill(self) -> None:
        fill_next_token_bitmask(self._inner, self._bits)

    def take(self, token: int) -> bool:
        return self._inner.try_consume_tokens([token]) == 1

    def may_end(self) -> bool:
        return self._inner.is_accepting()


class Xgrammar:
    """xgrammar with its defaults, formatting left free as llguidance has it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._library = importlib.import_module("xgrammar")
        info = self._library.TokenizerInfo(
            vocabulary.tokens,
            vocab_type=self._library.VocabType.RAW,
            vocab_size=len(vocabulary.tokens),
            stop_token_ids=[vocabulary.end],
        )
        self._end = vocabulary.end
        self._compiler = self._library.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        self._bits = self._library.allocate_token_bitmask(1, len(vocabulary.tokens))

    def matcher(self, schema: Any) -> Matcher | None:
        """None for what raises."""
        try:
            compiled = self._compiler.compile_json_schema(json.dumps(schema), strict_mode=False)
        except (RuntimeError, ValueError):
            return None
        return _XgrammarMatcher(self._library.GrammarMatcher(compiled), self._bits, self._end)


class _XgrammarMatcher:
    def __init__(self, inner: Any, bits: Any, end: int) -> None:
        self._inner, self._bits, self._end = inner, bits, end

    def fill(self) -> None:
        self._inner.fill_next_token_bitmask(self._bits)

    def take(self, token: int) -> bool:
        return bool(self._inner.accept_token(token))

    def may_end(self) -> bool:
        self.fill()
        return bool(int(self._bits[0, self._end // 32]) >> self._end % 32 & 1)


LIBRARIES: dict[str, type[Llguidance] | type[Xgrammar]] = {"llguidance": Llguidance, "xgrammar": Xgrammar}


def coverage(library: Library, suite: Path) -> dict[str, Any]:
    """How many cases of the suite are exact, enforced, refused and broken; and the names of the broken ones."""
    counts, broken = Counter[str](), []
    for name, case in _cases(suite):
        counts["cases"] += 1
        verdict = _verdict(library, case)
        counts[verdict] += 1
        if verdict == "broken":
            broken.append(f"{name}: {case['description']}")
    exact, incomplete = counts["exact"], counts["incomplete"]
    return {
        "cases": counts["cases"], "enforced": exact + incomplete, "exact": exact, "refused": counts["refused"],
        "broken": counts["broken"], "broken_cases": broken,
    }  # fmt: skip


def _cases(suite: Path) -> Iterator[tuple[str, Any]]:
    for path in sorted((suite / "tests" / "draft2020-12").glob("*.json")):
        for case in json.loads(path.read_text()):
            yield path.stem, case


def _verdict(library: Library, case: Any) -> str:
    if library.matcher(case["schema"]) is None:
        return "refused"
    accepted = [_accepts(library, case["schema"], test["data"]) for test in case["tests"]]
    if any(accept and not test["valid"] for accept, test in zip(accepted, case["tests"], strict=True)):
        return "broken"
    valid = [accept for accept, test in zip(accepted, case["tests"], strict=True) if test["valid"]]
    return "exact" if all(valid) else "incomplete"


def _accepts(library: Library, schema: Any, document: Any) -> bool:
    matcher = library.matcher(schema)
    text = json.dumps(document, ensure_ascii=False).encode(errors="surrogatepass")
    return matcher is not None and all(matcher.take(byte) for byte in text) and matcher.may_end()


def mask_times(library: Library, vocabulary: Vocabulary) -> dict[str, Any]:
    """Microseconds per token of each document: to fill the mask and take the token; and milliseconds to compile."""
    figures = {}
    for name, (schema, document) in DOCUMENTS.items():
        tokens = vocabulary.encode(json.dumps(document).encode())
        started = perf_counter()
        matcher = library.matcher(schema)
        compile_ms = 1e3 * (perf_counter() - started)
        assert matcher is not None
        times = [1e6 * one for one in _written(matcher, tokens)]
        figures[name] = {
            "tokens": len(tokens), "compile_ms": compile_ms, "mean_us": statistics.mean(times),
            "p50_us": statistics.median(times), "max_us": max(times),
        }  # fmt: skip
    return figures


def _written(matcher: Matcher, tokens: Sequence[int]) -> Iterator[float]:
    for token in tokens:
        started = perf_counter()
        matcher.fill()
        if not matcher.take(token):
            raise ValueError(f"token {token} of a valid document is not allowed.")
        yield perf_counter() - started


def main() -> None:
    """Measure, publish, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[32_000, 128_000])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    there = {name: kind for name, kind in LIBRARIES.items() if importlib.util.find_spec(name) is not None}
    single_bytes = Vocabulary.of([])
    covered = {name: coverage(kind(single_bytes), options.suite) for name, kind in there.items()}
    masks: dict[str, Any] = {}
    for size in options.vocabularies:
        vocabulary = Vocabulary.of_size(size)
        ready = {name: kind(vocabulary) for name, kind in there.items()}
        rounds = [
            {name: mask_times(library, vocabulary) for name, library in ready.items()} for _ in range(options.rounds)
        ]
        masks[str(len(vocabulary.tokens))] = {
            name: {document: _medians([one[name][document] for one in rounds]) for document in DOCUMENTS}
            for name in ready
        }
    broken = {name: figures.pop("broken_cases") for name, figures in covered.items()}
    publish("structured", {"coverage": covered, "masks": masks, "runs": {"broken_cases": broken}})
    _show(covered, masks)


def _medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {figure: statistics.median(one[figure] for one in rounds) for figure in rounds[0]}


def _show(covered: dict[str, Any], masks: dict[str, Any]) -> None:
    table = Table("library", "cases", "enforced", "exact", "refused", "broken")
    for name, figures in covered.items():
        table.add_row(name, *(str(figures[key]) for key in ("cases", "enforced", "exact", "refused", "broken")))
    times = Table("vocabulary", "library", "document", "compile ms", "per token: mean µs", "p50", "max")
    for size, libraries in masks.items():
        for name, documents in libraries.items():
            for document, row in documents.items():
                shown = (f"{row[key]:.1f}" for key in ("compile_ms", "mean_us", "p50_us", "max_us"))
                times.add_row(size, name, document, *shown)
    console = Console(stderr=True)
    console.print(table)
    console.print(times)


if __name__ == "__main__":
    main()
