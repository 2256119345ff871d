"""Cores whose windows are drawn by lot, so that tests do not depend on how fast the machine is."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

from servery.engine.config import EngineConfig
from servery.engine.core import EngineCore
from servery.engine.request import NewRequest, Output
from servery.engine.speculation.confidence import Calibration
from servery.engine.speculation.proposer import Drafted, Stakes
from servery.engine.speculation.speculator import Speculator
from servery.engine.speculation.window import Candidate, WindowPolicy
from servery.engine.step import Step

Texts = dict[tuple[str, int], list[int]]


class AnyWindow(WindowPolicy):
    """Windows from 0 to the most, whatever they cost; a long pause now and then."""

    def __init__(self, max_drafts: int, seed: int = 0, least: int = 0) -> None:
        super().__init__(max_drafts)
        self._least = least
        self._chance = Random(seed)
        self._pause = 0

    def is_trial_due(self) -> bool:
        self._pause = self._chance.choice([0] * 20 + [5]) if not self._pause and not self._least else self._pause - 1
        return self._pause <= 0

    def is_hopeless(self, num_sequences: int, acceptance: float, drafting: object) -> bool:
        return True

    def steps_to_sit_out(self, *, is_hopeless: bool) -> int:
        return 0

    def trial(self, candidates: Sequence[Candidate], spare_tokens: int = 0) -> list[int]:
        return [min(self._chance.randint(self._least, self.max_drafts), each.limit) for each in candidates]


def core_of(
    model: Path, *, draft: Path | None = None, ngram: bool = False, least: int = 0, **changes: object
) -> EngineCore:
    """A core that speculates with a draft model, by lookup or not at all."""
    settings = {"threads": 1, "max_model_len": 256, **changes}
    if draft is not None:
        settings |= {"speculate": "draft", "draft_model": draft}
    elif ngram:
        settings |= {"speculate": "ngram"}
    core = EngineCore(EngineConfig(model=model, **settings))  # type: ignore[arg-type]
    max_drafts = settings.get("max_drafts", 8)
    if core._speculator is not None:
        core._speculator = Speculator(core._speculator._proposer, lambda: AnyWindow(max_drafts, least=least))
    return core


def stop_at_chance(core: EngineCore, seed: int = 0) -> None:
    """Let drafting end wherever the draft model's confidence falls into a grade that is out by lot, in this step."""
    assert core._speculator is not None
    proposer, chance = core._speculator._proposer, Random(seed)
    complete = proposer.complete

    def stopping(step: Step, stakes: Stakes | None = None) -> Drafted:
        chances = [chance.choice((0.9, 0.9, 0.1)) for _ in Calibration().chances]
        return complete(step, Stakes(chances, {}, chance.choice((0.2, 0.5)), chance.choice((0.0, 0.4, 2.0)), 0.0))

    proposer.complete = stopping  # type: ignore[method-assign]


def run(core: EngineCore, batch: Sequence[NewRequest], seed: int = 11) -> dict[tuple[str, int], list[Output]]:
    """Everything that comes out until nothing is left to do."""
    outputs: dict[tuple[str, int], list[Output]] = {}
    for one in batch:
        core.add(one, seed)
    while core.has_work:
        for output in core.step():
            outputs.setdefault((output.request_id, output.index), []).append(output)
        core.scheduler.check_integrity()
    return outputs


def texts(outputs: dict[tuple[str, int], list[Output]]) -> Texts:
    return {key: [token for output in row for token in output.token_ids] for key, row in outputs.items()}
