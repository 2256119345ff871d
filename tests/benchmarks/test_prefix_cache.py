"""The comparison with and without the prefix cache answers the same questions on both, of which one shares the prompt."""

import pytest

from benchmarks.prefix_cache import compare, measure, prompts, system_prompt
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
    runs = {
        "off": [{"ttft_s": 9.0, "total_s": 9.0}, {"ttft_s": 0.4, "total_s": 1.0}, {"ttft_s": 0.4, "total_s": 1.0}],
        "on": [{"ttft_s": 9.0, "total_s": 9.0}, {"ttft_s": 0.1, "total_s": 0.8}, {"ttft_s": 0.1, "total_s": 0.8}],
    }
    assert compare(runs)["time_saved_percent"] == pytest.approx({"ttft_s": 75.0, "total_s": 20.0})
