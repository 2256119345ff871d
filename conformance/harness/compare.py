"""Whether lm-eval's `local-completions` gives through the API what the engine gives offline, answer by answer."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conformance.environment import BUILD, ROOT, environment, run
from conformance.harness.tasks import write_tasks
from conformance.server import serving
from servery import amuse

# What has the API's model in it, and what that needs; 0.4.13 is the version that this was written against.
REQUIREMENTS = ("lm-eval[api]>=0.4.13,<0.5",)
# Prompts meet other neighbours in a batch here than there, and the order of a sum's terms is not its value's.
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Compared:
    """A task's scores on both ways, how many of its answers differ, and the largest difference of log probabilities."""

    name: str
    api: Mapping[str, float]
    offline: Mapping[str, float]
    answers: int
    different: int
    largest: float

    @property
    def is_equal(self) -> bool:
        """Whether every answer and every score is the same: texts to the letter, log probabilities but for rounding."""
        scores = all(abs(value - self.offline[name]) <= _TOLERANCE for name, value in self.api.items())
        return scores and self.api.keys() == self.offline.keys() and self.answers > 0 and self.different == 0

    def __str__(self) -> str:
        scores = ", ".join(f"{name} {value:.6g} and {self.offline[name]:.6g}" for name, value in self.api.items())
        told = "" if self.is_equal else "DIFFERENT: "
        return (
            f"{told}{self.name}: through the API and offline {scores}; {self.different} of {self.answers} answers differ, "
            f"log probabilities by at most {self.largest:.2g}"
        )


def compare(questions: int, seed: int) -> list[Compared]:
    """Run the tasks on both ways; raises `CannotRun` when lm-eval cannot be had or fails."""
    python = environment("lm-eval", REQUIREMENTS, sees_ours=True)
    tasks, scores, checkpoint = BUILD / "tasks", BUILD / "lm-eval.json", amuse.path()
    write_tasks(tasks, checkpoint, questions, seed)
    with serving("amuse", "--kv-memory", "64MiB") as served:
        told = {"--url": served.url, "--model": "amuse", "--checkpoint": checkpoint, "--tasks": tasks, "--out": scores}
        options = [str(part) for option in told.items() for part in option]
        command = [str(python), "-m", "conformance.harness.score", *options]
        offline = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src")))}
        run(command, "score with lm-eval", {**os.environ, **offline})
    scored = json.loads(scores.read_text())
    return [judge(name, scored["api"][name], scored["offline"][name]) for name in scored["api"]]


def judge(name: str, api: Mapping[str, Any], offline: Mapping[str, Any]) -> Compared:
    """Compare a task's two runs, each its `metrics` and its `answers`."""
    pairs = list(zip(api["answers"], offline["answers"], strict=True))
    gaps = [_gap(here, there) for here, there in pairs]
    return Compared(
        name,
        api["metrics"],
        offline["metrics"],
        answers=len(pairs),
        different=sum(gap > _TOLERANCE for gap in gaps),
        largest=max(gaps, default=0.0),
    )


def _gap(here: Any, there: Any) -> float:
    """The largest difference of two numbers at the same place; infinite where anything else differs."""
    if isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
        return max(map(_gap, here, there), default=0.0)
    if isinstance(here, float) and isinstance(there, float):
        return abs(here - there)
    return 0.0 if here == there else float("inf")
