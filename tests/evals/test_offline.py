"""The engine in this process answers as itself, and as behind an address."""

import asyncio
import hashlib
import json
import math
from pathlib import Path

import pytest
import torch

from servery import cli
from servery.engine.llm import LLM
from servery.engine.request import SamplingParams
from servery.evals import results
from servery.evals.answer import Answer, Failure
from servery.evals.computed import Computed
from servery.evals.offline import Offline
from servery.evals.task import Task
from tests.engine import tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tiny_model.save(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def llm(tiny: Path) -> LLM:
    return LLM(tiny, threads=1, max_model_len=64)


@pytest.fixture(scope="module")
def offline(tiny: Path) -> Offline:
    return Offline(tiny, {"threads": 1, "max_model_len": 64})


def answers(offline: Offline, *tasks: Task) -> dict[str, Answer | Failure]:
    found: dict[str, Answer | Failure] = {}

    async def keep(task: Task, answer: Answer | Failure) -> None:
        found[task.id] = answer

    asyncio.run(offline.answer(tasks, keep))
    return found


def prompt(key: str, text: str = "hello world", **more: object) -> Task:
    return Task(id=key, prompt=text, scorer="exact", expected="?", **{"max_tokens": 5, **more})


def test_tasks_with_different_limits_get_their_own_answers(offline: Offline, llm: LLM) -> None:
    chat = Task(id="d", messages=[{"role": "user", "content": "hello"}], scorer="exact", expected="?", max_tokens=4)
    found = answers(offline, prompt("a"), prompt("b", max_tokens=3), prompt("c", "this is"), chat)
    assert set(found) == set("abcd")
    params = SamplingParams(temperature=0.0, max_tokens=5)
    one, other = llm.generate(["hello world", "this is"], params)
    short = llm.generate(["hello world"], SamplingParams(temperature=0.0, max_tokens=3))[0]
    said = llm.chat([chat.messages or []], SamplingParams(temperature=0.0, max_tokens=4))[0]
    texts = {key: answer.text for key, answer in found.items() if isinstance(answer, Answer)}
    assert texts == {"a": one.text, "b": short.text, "c": other.text, "d": said.text}


def test_a_task_that_does_not_fit_fails_alone(offline: Offline) -> None:
    found = answers(offline, prompt("a"), prompt("b", "hello " * 200), prompt("c"))
    assert found["a"] == found["c"]
    assert isinstance(found["a"], Answer)
    assert isinstance(found["b"], Failure)
    assert found["b"].kind == "refused"


def test_tasks_with_different_tools_are_computed_together(
    offline: Offline, llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each is asked with its own."""
    asked: list[list[list[int]]] = []
    monkeypatch.setattr(
        offline._llm,
        "generate",
        lambda prompts, *args, **kw: asked.append(prompts) or llm.generate(prompts, *args, **kw),
    )
    hidden: dict[str, object] = {"messages": [{"role": "user", "content": "hello"}], "scorer": "exact", "expected": "?"}
    tools = [[{"type": "function", "function": {"name": name}}] for name in ("f", "g")]
    tasks = [Task(id=str(at), tools=of_one, max_tokens=2, **hidden) for at, of_one in enumerate(tools)]  # type: ignore[arg-type]
    found = answers(offline, *tasks, Task(id="2", max_tokens=2, **hidden), prompt("3", max_tokens=2))  # type: ignore[arg-type]
    template = llm.chat_template
    assert template is not None
    encoded = [template.encode(llm.tokenizer, hidden["messages"], of_one) for of_one in (*tools, None)]  # type: ignore[arg-type]
    assert asked == [[*encoded, llm.tokenizer.encode("hello world")]]
    assert len(found) == 4


def test_a_choice_is_the_continuation_that_the_model_finds_most_likely(offline: Offline, llm: LLM) -> None:
    """Against the log probability of each token, one prompt at a time, without looking at any prompt's own."""
    task = Task(id="c", prompt="hello", scorer="choice", expected=" test", choices=[" test", " world", " is a"])
    found = answers(offline, task)["c"]
    assert isinstance(found, Answer)
    expected = []
    for choice in task.choices:
        known, whole = llm.tokenizer.encode("hello"), llm.tokenizer.encode("hello" + choice)
        assert whole[: len(known)] == known
        total = 0.0
        for at in range(len(known), len(whole)):
            forced = SamplingParams(
                temperature=0.0, max_tokens=1, logprobs=0, logit_bias={whole[at]: 100.0}, ignore_eos=True
            )
            total += llm.generate([whole[:at]], forced)[0].completions[0].logprobs[0].logprob
        expected.append(total)
    assert found.logprobs == pytest.approx(expected, abs=1e-4)
    assert found.text == task.choices[expected.index(max(expected))]


def test_a_choice_in_a_chat_is_told_by_its_first_token(offline: Offline) -> None:
    choices = [chr(letter) for letter in range(65, 91)]
    task = Task(
        id="c", messages=[{"role": "user", "content": "hi"}], scorer="choice", expected="A", choices=choices
    )  # fmt: skip
    found = answers(offline, task)["c"]
    assert isinstance(found, Answer)
    assert found.logprobs is not None
    assert len(found.logprobs) == len(choices)
    assert all(value <= 0 and math.isfinite(value) for value in found.logprobs)


def test_the_whole_way_from_tasks_to_a_gate(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model against itself, on tasks that it gets right by construction: enough of them, and it passes."""
    monkeypatch.chdir(tmp_path)
    llm = LLM(tiny, threads=1, max_model_len=64)
    texts = [f"hello {number}" for number in range(60)]
    said = llm.generate(texts, SamplingParams(temperature=0.0, max_tokens=2))
    lines = [
        {"id": text, "prompt": text, "expected": one.text.strip(), "scorer": "exact", "max_tokens": 2, "stratum": "all"}
        for text, one in zip(texts, said, strict=True)
    ]
    Path("tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for out in ("a.jsonl", "b.jsonl"):
        assert cli.main(["eval", "run", "tasks.jsonl", "--out", out, "--offline", str(tiny), "--threads", "1"]) == 0
    assert cli.main(["eval", "gate", "--baseline", "a.jsonl", "--candidate", "b.jsonl"]) == 0
    assert cli.main(["eval", "gate", "--verify", "gate.json", "--tasks", "tasks.jsonl"]) == 0
    found = results.read(Path("a.jsonl"))
    assert found.header.settings == {"engine": {"threads": 1}}
    assert found.header.computed == Computed.of(llm.core.info)
    assert found.header.checkpoint is not None
    (tiny / "model.safetensors").rename(tiny / "other.safetensors")
    try:
        assert cli.main(["eval", "gate", "--verify", "gate.json"]) == 1
    finally:
        (tiny / "other.safetensors").rename(tiny / "model.safetensors")


def test_a_run_is_bound_to_its_calibration_text_and_to_what_computed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.jsonl").write_text('{"id": "a", "prompt": "hello", "expected": "?", "scorer": "exact", "max_tokens": 2}\n')
    text = Path("cal.txt")
    words = "eval run t.jsonl --out r.jsonl --threads 1 --kernels torch --quantize int4 --calibration cal.txt --offline"
    run = [*words.split(), str(tiny)]
    assert cli.main(run) == 2
    assert "the calibration text cal.txt cannot be read: No such file" in capsys.readouterr().err
    text.write_text("hello world, this is a small test. " * 20)
    assert cli.main(run) == 0
    head = results.read(Path("r.jsonl")).header
    assert head.settings["engine"] == {
        "quantize": "int4", "kernels": "torch", "threads": 1, "calibration": str(text.resolve()),
        "calibration_sha256": hashlib.sha256(text.read_bytes()).hexdigest(),
    }  # fmt: skip
    assert head.computed == Computed(kernels="torch", dtype="float32", weight_dtype="int4", kv_dtype="float32")
    assert cli.main(run) == 0
    text.write_text("this engine and its tokens are another text. " * 20)
    assert cli.main(run) == 1
    assert "(settings.engine.calibration_sha256 differ)" in capsys.readouterr().err
