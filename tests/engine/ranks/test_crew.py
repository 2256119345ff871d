"""Several real processes compute one model: the tokens of one, and a clear end when one of them is gone."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from servery.engine.constraint import regex
from servery.engine.errors import EngineDead, LoadError
from servery.engine.llm import LLM
from servery.engine.request import SamplingParams

PROMPTS = [[7 + (3 * row * position) % 250 for position in range(5 + 13 * row)] for row in range(4)]
PARAMS = [
    SamplingParams(max_tokens=12, ignore_eos=True, temperature=0.0, logprobs=2, prompt_logprobs=1),
    SamplingParams(max_tokens=12, ignore_eos=True, temperature=0.9, seed=5, top_p=0.9),
    SamplingParams(max_tokens=12, temperature=0.0, repetition_penalty=1.3, constraint=regex("[a-z]{9}")),
]


def llm_of(model: Path, **settings: object) -> LLM:
    return LLM(model, max_model_len=256, kv_memory_bytes=4 << 20, threads=1, device="cpu", **settings)


def answers(llm: LLM) -> list[list[int]]:
    return [each.completions[0].token_ids for params in PARAMS for each in llm.generate(PROMPTS, params)]


@pytest.fixture(scope="module")
def divided(tiny: Path) -> Iterator[LLM]:
    llm = llm_of(tiny, tensor_parallel=2)
    yield llm
    llm.close()


def test_two_processes_give_the_tokens_of_one(divided: LLM, tiny: Path) -> None:
    assert answers(divided) == answers(llm_of(tiny))
    info = divided.core.info
    assert (info.tensor_parallel, info.pipeline_parallel, info.device) == (2, 1, "cpu")
    assert 0 < info.sum_s < info.step_sums_s


def test_a_process_that_is_killed_ends_the_engine_with_its_name(divided: LLM) -> None:
    """After the tests above: nothing can be computed any more."""
    (other,) = divided.core.processes
    os.kill(other, signal.SIGKILL)
    with pytest.raises(EngineDead, match=rf"process 1 of the model \(pid {other}\) ended with status -9\."):
        answers(divided)
    divided.close()


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "speculate"), [((4, 1), "off"), ((1, 2), "ngram"), ((2, 2), "ngram")])
def test_any_number_of_processes_gives_the_tokens_of_one(tiny: Path, ranks: tuple[int, int], speculate: str) -> None:
    llm = llm_of(tiny, tensor_parallel=ranks[0], pipeline_parallel=ranks[1], speculate=speculate)
    try:
        assert answers(llm) == answers(llm_of(tiny))
    finally:
        llm.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_loras": 1}, "with 2 processes for a model there are no LoRA adapters"),
        ({"speculate": "draft", "draft_model": Path("other")}, "there is no draft model; take --speculate ngram"),
        ({"kernels": "native"}, "there are no native kernels"),
        ({"quantize": "int4"}, "servery quantize MODEL OUT --scheme int4, then serve OUT"),
    ],
)
def test_what_only_one_process_can_do_is_refused_before_any_starts(tiny: Path, settings: dict, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        llm_of(tiny, tensor_parallel=2, **settings)
