"""What the gate writes: its verdict, bound by hashes to weights, tokenizer, tasks, answers and version.

The digest over the whole makes a changed figure show; it is no signature, and whoever can write the file can write
another. What it claims is therefore checked against the files themselves.
"""

import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from servery import __version__
from servery.evals import calibration, gate, results, task
from servery.evals.compare import compare
from servery.evals.computed import Computed
from servery.evals.errors import EvalError, ResultFileError
from servery.evals.fingerprint import Fingerprint
from servery.evals.gate import StratumVerdict, Verdict
from servery.evals.results import Results

SCHEMA = "servery.eval.gate/1"


class Rule(NamedTuple):
    """What a verdict must at least have been held to."""

    margin: float
    confidence: float


class Side(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of the two runs: its file (relative to the certificate where it can be), and what it was a run of."""

    results: str
    results_sha256: str
    target: str
    model: str
    checkpoint: Fingerprint | None
    settings: dict[str, Any]
    computed: Computed | None = None


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict of the gate and all that it depends on; `digest` is the SHA-256 of everything else."""

    schema: str = SCHEMA
    passed: bool
    margin: float
    confidence: float
    version: str
    date: str
    tasks: str
    tasks_sha256: str
    baseline: Side
    candidate: Side
    strata: list[StratumVerdict]
    digest: str = ""

    @property
    def notes(self) -> list[str]:
        """What a reader should know of what it is not bound to."""
        sides = (("baseline", self.baseline), ("candidate", self.candidate))
        return [
            f"the {name} is bound to no weights: its run was given neither --offline nor --checkpoint"
            for name, side in sides
            if side.checkpoint is None
        ]


def issue(path: Path, baseline: Results, candidate: Results, margin: float, confidence: float) -> Certificate:
    """Judge two runs and write the certificate to `path`, whole or not at all."""
    verdict = gate.judge(compare(baseline, candidate), margin, confidence)
    certificate = _sealed(
        Certificate(
            passed=verdict.has_passed,
            margin=margin,
            confidence=confidence,
            version=__version__,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            tasks=baseline.header.tasks.name,
            tasks_sha256=baseline.header.tasks.sha256,
            baseline=_side(path, baseline),
            candidate=_side(path, candidate),
            strata=verdict.strata,
        )
    )
    part = path.with_name(path.name + ".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(certificate), indent=2) + b"\n")
    part.replace(path)
    return certificate


def read(path: Path) -> Certificate:
    """Read a certificate. Raises `ResultFileError` if it is none, `OSError` if it cannot be read."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Certificate)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise ResultFileError(f"{path}: {error}; it is no file that `servery eval gate` has written.") from None
    if found.schema != SCHEMA:
        raise ResultFileError(f"{path}: `schema` is {found.schema!r}; this version reads {SCHEMA!r}.")
    return found


def problems(path: Path, certificate: Certificate, rule: Rule, tasks: Path | None = None) -> list[str]:
    """Every claim of the certificate at `path` that does not hold now; none: it can be relied upon."""
    return list(_problems(path, certificate, rule, tasks))


def _problems(path: Path, certificate: Certificate, rule: Rule, tasks: Path | None) -> Iterator[str]:
    if certificate.digest != _digest(certificate):
        yield "its digest is not that of its content: it was changed"
    if not certificate.passed:
        yield "it says that the candidate did not pass"
    if certificate.margin > rule.margin or certificate.confidence < rule.confidence:
        yield f"it was held to a margin of {certificate.margin:.1%}; {rule.margin:.1%} is asked"
    if certificate.version != __version__:
        yield f"it was made by version {certificate.version}; this is {__version__}"
    if tasks is not None and task.sha256_of(tasks) != certificate.tasks_sha256:
        yield f"{tasks} is not the task file that was used"
    for name, side in (("baseline", certificate.baseline), ("candidate", certificate.candidate)):
        if side.checkpoint is not None:
            yield from _checkpoint_problems(name, side.checkpoint)
        if text := calibration.problem(side.settings.get("engine", {})):
            yield f"the {name}'s {text}"
    yield from _verdict_problems(path.parent, certificate)


def _checkpoint_problems(name: str, checkpoint: Fingerprint) -> Iterator[str]:
    try:
        now = Fingerprint.of(Path(checkpoint.path))
    except (EvalError, OSError) as error:
        yield f"the {name}'s checkpoint cannot be checked: {error}"
        return
    if now.weights != checkpoint.weights:
        yield f"the {name}'s weights in {checkpoint.path} have changed"
    if now.tokenizer != checkpoint.tokenizer:
        yield f"the {name}'s tokenizer in {checkpoint.path} has changed"


def _verdict_problems(folder: Path, certificate: Certificate) -> Iterator[str]:
    """Judge the same runs again."""
    try:
        baseline, candidate = (results.read(folder / side.results) for side in _sides(certificate))
        again = gate.judge(compare(baseline, candidate), certificate.margin, certificate.confidence)
    except (EvalError, OSError) as error:
        yield f"the runs cannot be judged again: {error}"
        return
    for name, found, side in zip(("baseline", "candidate"), (baseline, candidate), _sides(certificate), strict=True):
        if found.sha256 != side.results_sha256:
            yield f"the {name}'s answers in {side.results} have changed"
        if (found.header.checkpoint, found.header.tasks.sha256) != (side.checkpoint, certificate.tasks_sha256):
            yield f"the {name}'s answers in {side.results} are of another model or other tasks"
        if (found.header.settings, found.header.computed) != (side.settings, side.computed):
            yield f"the {name}'s answers in {side.results} were computed otherwise than it says"
    if not _is_same(again, certificate):
        yield "the runs, judged again, give another verdict"


def _sides(certificate: Certificate) -> tuple[Side, Side]:
    return certificate.baseline, certificate.candidate


def _is_same(again: Verdict, certificate: Certificate) -> bool:
    return again.has_passed == certificate.passed and again.strata == certificate.strata


def _side(path: Path, run: Results) -> Side:
    return Side(
        results=os.path.relpath(run.path.resolve(), path.resolve().parent),
        results_sha256=run.sha256,
        target=run.header.target,
        model=run.header.model,
        checkpoint=run.header.checkpoint,
        settings=run.header.settings,
        computed=run.header.computed,
    )


def _sealed(certificate: Certificate) -> Certificate:
    return msgspec.structs.replace(certificate, digest=_digest(certificate))


def _digest(certificate: Certificate) -> str:
    content = msgspec.json.encode(msgspec.structs.replace(certificate, digest=""), order="sorted")
    return hashlib.sha256(content).hexdigest()
