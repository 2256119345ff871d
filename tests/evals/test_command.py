"""`servery eval` as it is typed: runs that go on, figures as a table or as JSON, exit codes, what cannot be asked."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from servery import amuse, cli
from servery.evals import results
from servery.evals.errors import EvalError
from servery.evals.run import RunOptions
from servery.server.key_options import KEY_VARIABLE
from tests.evals.runs import COMPUTED, paired, save
from tests.scripted_server import ScriptedServer, json_answer, scripted

CHAT = "/v1/chat/completions"
MODELS = {"/v1/models": [json_answer({"data": [{"id": "amuse"}]})]}
GOOD = (560, 20, 20, 100)


@pytest.fixture(autouse=True)
def private_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test runs in a directory of its own, without keys in its environment."""
    monkeypatch.chdir(tmp_path)
    for name in (KEY_VARIABLE, "SERVERY_JUDGE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def tasks(private_home: Path) -> Path:
    lines = [
        {"id": f"{stratum}{at}", "stratum": stratum, "messages": [{"role": "user", "content": f"{at}?"}], "expected": "2",
         "scorer": "exact"}
        for stratum, n in (("x", 2), ("y", 1)) for at in range(n)
    ]  # fmt: skip
    path = private_home / "tasks.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def said(text: str) -> list[bytes]:
    return json_answer({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})


@contextmanager
def serving(script: dict[str, list[list[Any]]]) -> Iterator[ScriptedServer]:
    """A scripted server beside the test, as the command line runs a loop of its own."""
    loop, started, over = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    found: list[ScriptedServer] = []

    async def serve() -> None:
        async with scripted({**MODELS, **script}) as server:
            found.append(server)
            started.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    started.wait()
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


def run(server: ScriptedServer, *more: str) -> int:
    return cli.main(
        ["eval", "run", "tasks.jsonl", "--out", "r.jsonl", "--url", server.url, "--concurrency", "1", *more]
    )


@pytest.mark.usefixtures("tasks")
def test_a_run_is_scored_told_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    with serving({CHAT: [said("2"), said("3"), said("2")]}) as server:
        assert run(server, "--json", "figures.json") == 0
    found = results.read(Path("r.jsonl"))
    assert {key: (item.is_right, item.text) for key, item in found.items.items()} == {
        "x0": (True, "2"), "x1": (False, "3"), "y0": (True, "2"),
    }  # fmt: skip
    assert (found.header.model, found.header.target, found.header.checkpoint) == ("amuse", server.url, None)
    figures = json.loads(Path("figures.json").read_text())
    assert [(row["stratum"], row["n"], row["right"]) for row in figures["strata"]] == [
        ("x", 2, 1), ("y", 1, 1), ("(all)", 3, 2),
    ]  # fmt: skip
    assert "50.0%" in capsys.readouterr().out


@pytest.mark.usefixtures("tasks")
def test_the_same_command_asks_only_what_has_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    script = {CHAT: [said("2"), json_answer({"error": {"message": "odd"}}, 400), said("2"), said("5")]}
    with serving(script) as server:
        assert run(server) == 1
        assert "error http_400: 1 times" in capsys.readouterr().err
        assert run(server) == 0
        assert run(server) == 0
    assert [body["messages"][0]["content"] for body in server.bodies(CHAT)] == ["0?", "1?", "0?", "1?"]
    assert results.read(Path("r.jsonl")).items["x1"].text == "5"


def test_an_answer_is_judged_by_another_model(tasks: Path) -> None:
    line = {"id": "j", "prompt": "1 + 1 =", "expected": "2", "scorer": "judge"}
    tasks.write_text(json.dumps(line) + "\n" + json.dumps({**line, "id": "k"}) + "\n")
    answers = {"/v1/completions": [json_answer({"choices": [{"text": "two"}]})]}
    with serving(answers) as server, serving({CHAT: [said("Same.\nVERDICT: CORRECT"), said("Hm.")]}) as judge:
        assert run(server) == 2
        assert run(server, "--judge-url", judge.url, "--judge-model", "wise", "--judge-api-key", "k") == 1
    found = results.read(Path("r.jsonl"))
    assert (found.items["j"].is_right, found.items["j"].verdict) == (True, "Same.\nVERDICT: CORRECT")
    assert (found.items["k"].is_right, found.items["k"].text) == (None, "two")
    assert (found.items["k"].error or "").startswith("verdict: the judge gave no single verdict")
    assert found.header.settings == {"judge": {"url": judge.url, "model": "wise"}}
    assert judge.bodies(CHAT)[0]["model"] == "wise"
    assert "k" not in {asked.headers.get("authorization") for asked in server.asked}


def test_a_comparison_lists_what_was_lost(capsys: pytest.CaptureFixture[str]) -> None:
    one, other = paired(5, 2, 1, 2)
    save(Path("a.jsonl"), {"x": one})
    save(Path("b.jsonl"), {"x": other})
    assert cli.main(["eval", "compare", "a.jsonl", "b.jsonl", "--flips", "1", "--json", "c.json"]) == 0
    shown = capsys.readouterr().out
    assert "lost   x x/5: 'True' -> 'False'" in shown
    assert "2 more flips" in shown
    found = json.loads(Path("c.json").read_text())
    assert (len(found["flips"]), found["strata"][0]["p_value"]) == (3, 1.0)


def test_a_comparison_and_a_gate_tell_by_what_each_was_computed(capsys: pytest.CaptureFixture[str]) -> None:
    one, other = paired(*GOOD)
    save(Path("a.jsonl"), {"x": one}, computed=COMPUTED)
    save(Path("b.jsonl"), {"x": other}, computed=msgspec.structs.replace(COMPUTED, kernels="torch"))
    save(Path("c.jsonl"), {"x": other})
    told = "native-avx2 in float32, weights int8, keys and values float32"
    for candidate, by, notes in (
        ("b.jsonl", "torch in float32", 1),
        ("c.jsonl", "not recorded", 0),
        ("a.jsonl", told, 0),
    ):
        gate = ["eval", "gate", "--baseline", "a.jsonl", "--candidate", candidate]
        for words in (["eval", "compare", "a.jsonl", candidate], gate):
            assert cli.main(words) == 0
            shown = capsys.readouterr().out
            assert f"baseline   computed by: {told}" in shown
            assert f"candidate  computed by: {by}" in shown
            assert shown.count("computed by different kernels") == notes
    assert cli.main(["eval", "compare", "a.jsonl", "b.jsonl", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["baseline"] == msgspec.structs.asdict(COMPUTED)


def test_a_gate_writes_its_verdict_and_checks_it(capsys: pytest.CaptureFixture[str]) -> None:
    for name, counts in (("good", GOOD), ("bad", (100, 30, 0, 0))):
        one, other = paired(*counts)
        save(Path(f"{name}-a.jsonl"), {"x": one})
        save(Path(f"{name}-b.jsonl"), {"x": other})
    gate = ["eval", "gate", "--baseline"]
    assert cli.main([*gate, "bad-a.jsonl", "--candidate", "bad-b.jsonl", "--out", "bad.json"]) == 1
    assert cli.main([*gate, "good-a.jsonl", "--candidate", "good-b.jsonl", "--out", "good.json"]) == 0
    assert json.loads(Path("good.json").read_text())["passed"] is True
    capsys.readouterr()
    # The runs say another version than this one, as if they were old; the verdict is of this version.
    assert cli.main(["eval", "gate", "--verify", "good.json"]) == 0
    assert capsys.readouterr().out.endswith("verified\n")
    assert cli.main(["eval", "gate", "--verify", "bad.json"]) == 1
    assert "not verified: it says that the candidate did not pass" in capsys.readouterr().err
    assert cli.main(["eval", "gate", "--verify", "good.json", "--margin", "0.01"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run tasks.jsonl --out tasks.jsonl", "is the task file itself"),
        ("run tasks.jsonl --out r --concurrency 0", "--concurrency is 0"),
        ("run tasks.jsonl --out r --timeout nan", "--timeout is nan"),
        ("run tasks.jsonl --out r --dtype float32", "--dtype does not go with --url"),
        ("run tasks.jsonl --out r --offline m --model x", "--model does not go with --offline"),
        ("run tasks.jsonl --out r --offline m --checkpoint m", "--checkpoint does not go with --offline"),
        ("gate", "give --baseline and --candidate"),
        ("gate --verify g --baseline b", "--verify takes no --baseline"),
        ("gate --verify g --margin 5", "--margin is 5.0; it is a share"),
    ],
)
@pytest.mark.usefixtures("tasks")
def test_what_cannot_be_asked_is_said_in_a_line(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", *words.split()]) == 2
    verb = words.split(maxsplit=1)[0]
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith(f"servery eval {verb}: ")
    assert message in err[0]
    assert err[1] == f"Try `servery eval {verb} --help`."


@pytest.mark.usefixtures("tasks")
def test_an_embedded_model_goes_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("servery.amuse.HOME", Path("nowhere"))
    assert cli.main(["eval", "run", "tasks.jsonl", "--out", "r.jsonl", "--offline", "amuse-draft"]) == 2
    assert "amuse size 'draft' has no weights in nowhere" in capsys.readouterr().err


QUANTIZED = ("--quantize", "int4", "--group-size", "32", "--calibration", "text.md", "--kv-dtype", "int8")
QUANTIZED_ENGINE = {"quantize": "int4", "group_size": 32, "calibration": "text.md", "kv_dtype": "int8"}


def test_the_shipped_tasks_go_by_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[RunOptions] = []

    def stop(options: RunOptions) -> None:
        asked.append(options)
        raise EvalError("enough")

    monkeypatch.setattr("servery.evals.run.run", stop)
    assert cli.main(["eval", "run", "amuse", "--out", "r.jsonl", "--offline", "amuse", *QUANTIZED]) == 1
    Path("amuse").touch()
    assert cli.main(["eval", "run", "amuse", "--out", "r.jsonl", "--url", "http://127.0.0.1:1"]) == 1
    assert [(one.tasks, one.engine) for one in asked] == [(amuse.TASKS, QUANTIZED_ENGINE), (Path("amuse"), {})]


def test_a_bad_task_file_and_a_missing_file_are_named(tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks.write_text('{"id": "a"}\n')
    assert cli.main(["eval", "run", "tasks.jsonl", "--out", "r.jsonl"]) == 1
    assert "tasks.jsonl:1: Object missing required field `expected`" in capsys.readouterr().err
    assert cli.main(["eval", "compare", "no.jsonl", "no.jsonl"]) == 1
    assert "no.jsonl" in capsys.readouterr().err
    assert not Path("r.jsonl").exists()


@pytest.mark.parametrize("words", [["eval"], ["eval", "run", "t", "--out", "r", "--url", "u", "--offline", "m"]])
def test_a_command_line_that_is_none_leaves_with_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    assert left.value.code == 2


def test_every_example_in_the_help_parses(capsys: pytest.CaptureFixture[str]) -> None:
    from servery.evals import command

    verbs: list[Callable[..., int]] = [command.run, command.compare, command.gate]
    for verb in verbs:
        examples = [line.strip() for line in (verb.__doc__ or "").partition("Example:")[2].splitlines() if line.strip()]
        assert examples
        for line in examples:
            assert cli.parser().parse_args(line.split()[1:]).verb == f"eval {verb.__name__}"
