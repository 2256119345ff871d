"""A model that was grown answers as it did, in steps that read more."""

from pathlib import Path

import pytest

from benchmarks.grown_model import grow
from servery import LLM, SamplingParams, amuse

DRAFT = amuse.path("draft")
PROMPTS = ["Compute 12 + 30?", "Name three colours.", "Once upon a time"]


def answers(llm: LLM) -> list[str]:
    found = llm.generate(PROMPTS, SamplingParams(temperature=0, max_tokens=12), progress=False)
    return [each.text for each in found]


@pytest.mark.parametrize("widening", [1, 4])
def test_a_grown_model_answers_as_the_one_it_was_made_of(tmp_path: Path, widening: int) -> None:
    grown = grow(DRAFT, tmp_path / "grown", widening=widening, intermediate=512, layers=4)
    small, large = (LLM(path, dtype="float32", kv_memory_bytes=32 << 20, threads=1) for path in (DRAFT, grown))
    assert answers(large) == answers(small)
    assert large.core.info.weight_bytes > 2 * small.core.info.weight_bytes


def test_a_model_that_is_there_stays(tmp_path: Path) -> None:
    folder = grow(DRAFT, tmp_path / "grown", widening=1, intermediate=256, layers=2)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert grow(DRAFT, folder, widening=4, intermediate=512, layers=4) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


def test_a_widening_that_would_round_the_norms_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"widening is 2; its root must be a power of 2: choose 1, 4 or 16"):
        grow(DRAFT, tmp_path / "grown", widening=2, intermediate=512, layers=4)
