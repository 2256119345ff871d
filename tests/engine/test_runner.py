"""The runner on a real model: drafts, good and bad, change how many steps a text takes, never the text."""

from pathlib import Path
from random import Random

import pytest

from servery.engine.config import EngineConfig
from servery.engine.core import EngineCore
from servery.engine.request import NewRequest, Output, SamplingParams, Sequence

SHARED = [7 + (3 * position) % 250 for position in range(40)]
Texts = dict[tuple[str, int], list[int]]


def core_of(model: Path, **changes: object) -> EngineCore:
    return EngineCore(EngineConfig(model=model, threads=1, max_model_len=256, **changes))  # type: ignore[arg-type]


def requests(**params: object) -> list[NewRequest]:
    settings = {"max_tokens": 40, "ignore_eos": True, **params}
    return [
        NewRequest(
            request_id=f"r{number}",
            prompt=[*SHARED[: 40 - 8 * (number % 2)], *range(60, 61 + 5 * number)],
            params=SamplingParams(**settings, n=1 + number % 2),  # type: ignore[arg-type]
        )
        for number in range(5)
    ]


class Drafting:
    """Runs requests; before each step it drafts what `known` texts say, with mistakes, or nothing if it knows none."""

    def __init__(self, core: EngineCore, known: Texts | None = None) -> None:
        self.core = core
        self.known = known
        self.outputs: dict[tuple[str, int], list[Output]] = {}
        self._chance = Random(5)

    def run(self, batch: list[NewRequest]) -> Texts:
        for one in batch:
            self.core.add(one, 11)
        while self.core.has_work:
            self._draft()
            for output in self.core.step():
                self.outputs.setdefault((output.request_id, output.index), []).append(output)
            self.core.scheduler.check_integrity()
        return {key: [token for output in row for token in output.token_ids] for key, row in self.outputs.items()}

    def _draft(self) -> None:
        for sequence in self.core.scheduler.decoding if self.known else ():
            if not sequence.parent.pooling:
                sequence.drafts = self._drafts(sequence)

    def _drafts(self, sequence: Sequence) -> list[int]:
        assert self.known is not None
        text = self.known[sequence.request_id, sequence.index]
        done = len(sequence.tokens) - sequence.prompt_len
        drafts = text[done : done + self._chance.choice([0, 1, 3, 6])]
        return [token if self._chance.random() < 0.8 else self._chance.randrange(256) for token in drafts]


PARAMS = {
    "greedy": {"temperature": 0.0},
    "greedy, penalties": {"temperature": 0.0, "repetition_penalty": 1.2, "frequency_penalty": 0.4},
    "seeded": {"seed": 3, "temperature": 0.9, "top_p": 0.9},
    "seeded, penalties, bias": {"seed": 3, "presence_penalty": 0.5, "logit_bias": {70: 2.0}, "min_p": 0.01},
    "a least length": {"temperature": 0.0, "min_tokens": 40, "stop_token_ids": tuple(range(128))},
    "logprobs": {"seed": 4, "logprobs": 3},
}
SCHEDULES = {
    "plain": {},
    "chunks": {"max_step_tokens": 12, "max_running": 8},
    "blocks of four": {"block_size": 4},
    "no cache": {"prefix_cache": False},
}


@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_texts_are_the_same_with_drafts(tiny: Path, params: str, schedule: str) -> None:
    plain = Drafting(core_of(tiny))
    known = plain.run(requests(**PARAMS[params]))
    drafting = Drafting(core_of(tiny, **SCHEDULES[schedule]), known)
    assert drafting.run(requests(**PARAMS[params])) == known
    stats = drafting.core.stats()
    assert stats.scheduler.accepted_draft_tokens > 60
    assert stats.steps < plain.core.stats().steps or schedule == "chunks"
    for key, outputs in plain.outputs.items():
        expected = [one for output in outputs for one in output.logprobs]
        got = [one for output in drafting.outputs[key] for one in output.logprobs]
        assert [one.token_id for one in got] == [one.token_id for one in expected]
        assert [one.logprob for one in got] == pytest.approx([one.logprob for one in expected], abs=1e-4)


def test_texts_are_the_same_with_drafts_under_preemption(tiny: Path) -> None:
    """18 blocks of 16 hold the prompts but not their answers."""
    batch = requests(seed=3, max_tokens=60)
    known = Drafting(core_of(tiny)).run(batch)
    kv_bytes = 18 * 16 * core_of(tiny).info.kv_bytes_per_token
    drafting = Drafting(core_of(tiny, kv_memory_bytes=kv_bytes), known)
    assert drafting.run(batch) == known
    stats = drafting.core.stats().scheduler
    assert stats.preemptions > 0
    assert stats.accepted_draft_tokens > 60


def test_a_stop_token_or_the_limit_amid_drafts_ends_the_text_there(tiny: Path) -> None:
    batch = requests(temperature=0.0)
    known = Drafting(core_of(tiny)).run(batch)
    text = known["r0", 0]
    stop = next(token for at, token in enumerate(text) if at > 5 and token not in text[:at])
    for params in ({"temperature": 0.0, "stop_token_ids": (stop,)}, {"temperature": 0.0, "max_tokens": 7}):
        short = requests(**params)
        expected = Drafting(core_of(tiny)).run(short)
        drafting = Drafting(core_of(tiny), known)
        assert drafting.run(short) == expected
        assert all(outputs[-1].finish_reason is not None for outputs in drafting.outputs.values())


def test_embeddings_and_scored_prompts_share_steps_with_drafts(tiny: Path) -> None:
    beside = [
        NewRequest(request_id="pool", prompt=SHARED[:21], pooling=True),
        NewRequest(request_id="one", prompt=[9], pooling=True),
        NewRequest(request_id="scored", prompt=SHARED[:9], params=SamplingParams(prompt_logprobs=1, max_tokens=9)),
    ]
    plain = Drafting(core_of(tiny))
    known = plain.run([*beside, *requests(seed=1)])
    drafting = Drafting(core_of(tiny, max_step_tokens=16, max_running=9), known)
    assert drafting.run([*requests(seed=1), *beside]) == known
    for key in (("pool", 0), ("one", 0)):
        assert drafting.outputs[key][0].embedding == pytest.approx(plain.outputs[key][0].embedding, abs=1e-5)
    expected = [one.logprob for one in plain.outputs["scored", 0][0].prompt_logprobs if one]
    scored = [one.logprob for one in drafting.outputs["scored", 0][0].prompt_logprobs if one]
    assert scored == pytest.approx(expected, abs=1e-5)
