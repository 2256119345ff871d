"""Adapters offline."""

from pathlib import Path

import pytest

from servery.engine.errors import LoadError, UnknownAdapter
from servery.engine.llm import LLM
from servery.engine.request import SamplingParams
from tests.engine import checkpoints, tiny_model
from tests.engine.lora import adapters

GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters for the tiny model, whose shapes are those of any qwen3 but for the vocabulary."""
    root = tmp_path_factory.mktemp("adapters")
    return [adapters.save(root / str(seed), checkpoints.qwen3(), seed=seed) for seed in (1, 2)]


def test_prompts_are_answered_with_the_adapter_that_is_named(tmp_path: Path, folders: list[Path]) -> None:
    llm = LLM(tiny_model.save(tmp_path), adapters={"one": folders[0]}, max_loras=2, max_model_len=128, threads=1)
    llm.load_adapter("two", folders[1])

    def answer(adapter: str | None) -> str:
        return llm.generate(["hello world"], GREEDY, adapter=adapter, progress=False)[0].text

    answers = [answer(None), answer("one"), answer("two")]
    assert len(set(answers)) == 3
    messages = [{"role": "user", "content": "hello"}]
    chats = {llm.chat([messages], GREEDY, adapter=name, progress=False)[0].text for name in (None, "one")}
    assert len(chats) == 2
    with pytest.raises(LoadError, match="an adapter named 'one' is loaded already; unload it first"):
        llm.load_adapter("one", folders[1])
    llm.unload_adapter("one")
    with pytest.raises(UnknownAdapter, match="no adapter named 'one' is loaded; loaded are: 'two'"):
        answer("one")
    with pytest.raises(UnknownAdapter):
        llm.unload_adapter("one")
    llm.load_adapter("three", folders[0])
    assert answer("three") == answers[1]
    with pytest.raises(LoadError, match="'four' has no place"):
        llm.load_adapter("four", folders[0])
