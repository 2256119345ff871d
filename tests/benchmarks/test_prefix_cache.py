"""The comparison with and without the prefix cache answers the same questions on both, of which one shares the prompt."""

import pytest

from benchmarks.prefix_cache import FIGURES, compare, measure, prompts, system_prompt
from servery import amuse
from servery.engine.chat_template import ChatTemplate
from servery.engine.config import EngineConfig
from servery.engine.core import EngineCore
from servery.engine.tokenizer import Tokenizer

DRAFT = amuse.path("draft")


def test_only_the_engine_with_the_cache_reuses_the_system_prompt() -> None:
    tokenizer, template = Tokenizer.load(DRAFT), ChatTemplate.load(DRAFT)
    assert template is not None
    system = system_prompt(tokenizer, 100)
    assert 97 <= len(tokenizer.encode(system)) <= 100
    cores = {
        name: EngineCore(EngineConfig(model=DRAFT, prefix_cache=on, kv_memory_bytes=16 << 20, threads=1))
        for name, on in (("off", False), ("on", True))
    }
    runs = measure(cores, prompts(tokenizer, template, system, 3), output_tokens=2)["runs"]
    assert [run["cached_tokens"] for run in runs["off"]] == [0, 0, 0]
    assert [run["cached_tokens"] >= 96 for run in runs["on"]] == [False, True, True]


def test_the_time_saved_is_told_from_the_second_question_on() -> None:
    first, off, on = (dict.fromkeys(FIGURES, seconds) for seconds in (9.0, 0.4, 0.1))
    runs = {"off": [first, off, off], "on": [first, on, on]}
    assert compare(runs)["time_saved_percent"] == pytest.approx(dict.fromkeys(FIGURES, 75.0))
