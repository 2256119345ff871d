"""Workers as their referee sees them: started on given cores, asked in turns, ended in any case."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.engine_cpu import models
from benchmarks.engine_cpu.environments import environment
from benchmarks.engine_cpu.rows import OURS, Contender, Row, Runs, Work
from benchmarks.result import interleaved

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
_DTYPES = {"bf16": {"dtype": "bfloat16"}, "auto": {}}
# How many tokens an engine without steps is asked for, once and once more.
WHOLE_TOKENS = (2, 10)


class Missing(Exception):
    """A peer that is not installed; the message says what installs it."""


class Worker:
    """One engine's process. `ask` raises RuntimeError when it has ended."""

    def __init__(self, contender: Contender, command: Sequence[str], settings: dict[str, Any], cores: str) -> None:
        self.contender = contender
        variables = {**os.environ, "OMP_NUM_THREADS": str(contender.threads), "HF_HUB_OFFLINE": "1"}
        variables["PYTHONPATH"] = os.pathsep.join((str(_ROOT), str(_ROOT / "src"), str(_HERE)))
        self._process = subprocess.Popen(  # noqa: S603 - its own commands
            ["taskset", "-c", cores, *command, json.dumps(settings)],  # noqa: S607
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=variables,
        )
        self.facts = self._answer()

    def ask(self, do: str, **order: int) -> dict[str, Any]:
        """Have an order carried out."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **order}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.contender.name} ended with status {self._process.wait()}; see above for why")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def start(contender: Contender, cache: Path, cores: Sequence[int], works: Sequence[Work]) -> Worker:
    """Start a contender with room for all `works`; raises `Missing` for a peer that is not installed."""
    settings: dict[str, Any] = {
        "threads": contender.threads,
        "context": max(work.context for work in works),
        "sequences": max(work.sequences for work in works),
        **dict(contender.settings),
    }
    command, model = _commands[contender.family](contender, cache, settings)
    used = ",".join(map(str, cores[: contender.threads]))
    return Worker(contender, command, {"model": str(model), **settings}, used)


def _servery(contender: Contender, cache: Path, settings: dict[str, Any]) -> tuple[list[str], Path]:
    rounding = {"dtype": "bfloat16", "quantize": contender.weights}
    settings.update(_DTYPES.get(contender.weights, rounding))
    if contender.weights == "int4":
        settings["group_size"] = 64
    return [sys.executable, "-m", "benchmarks.engine_cpu.servery_worker"], models.checkpoint(cache, contender.model)


def _llama_cpp(contender: Contender, cache: Path, settings: dict[str, Any]) -> tuple[list[str], Path]:
    python = _installed(cache, "llama_cpp")
    return [python, str(_HERE / "llama_cpp_worker.py")], models.gguf_file(cache, contender.model, contender.weights)


def _openvino(contender: Contender, cache: Path, settings: dict[str, Any]) -> tuple[list[str], Path]:
    python = _installed(cache, "openvino")
    there = environment(cache, "openvino")
    return [python, str(_HERE / "openvino_worker.py")], models.openvino_folder(
        cache, contender.model, contender.weights, there
    )


def _transformers(contender: Contender, cache: Path, settings: dict[str, Any]) -> tuple[list[str], Path]:
    settings["dtype"] = {"bf16": "bfloat16"}.get(contender.weights, contender.weights)
    return [sys.executable, str(_HERE / "transformers_worker.py")], models.checkpoint(cache, contender.model)


_commands: dict[str, Callable[[Contender, Path, dict[str, Any]], tuple[list[str], Path]]] = {
    OURS: _servery,
    "llama.cpp": _llama_cpp,
    "openvino": _openvino,
    "transformers": _transformers,
    "transformers batching": _transformers,
}


def _installed(cache: Path, name: str) -> str:
    there = environment(cache, name)
    if not there.is_there():
        raise Missing(f"{name} is not installed; this installs it:\n  {there.install}")
    return str(there.python)


def _without_prompts(worker: Worker, work: Work) -> dict[str, Any]:
    """What a few tokens more take an engine that has no steps, so that prompts and beginnings are not in it.

    What is made once is made before; it took longer than the tokens. Raises RuntimeError where fewer tokens still take longer.
    """
    worker.ask("batch", sequences=1, prompt=work.tokens, tokens=1)
    few, more = (
        worker.ask("batch", sequences=work.sequences, prompt=work.tokens, tokens=count) for count in WHOLE_TOKENS
    )
    if more["cpu_s"] <= few["cpu_s"]:
        raise RuntimeError(
            f"{worker.contender.name}: {WHOLE_TOKENS[1]} tokens took {more['cpu_s']:.1f} s, {WHOLE_TOKENS[0]} took"
            f" {few['cpu_s']:.1f} s; on a machine with less to do again"
        )
    return {key: more[key] - few[key] for key in more}


class Contest:
    """The workers of some rows with the same model of ours; those that are missing are told loudly and left out."""

    def __init__(self, rows: Sequence[Row], cache: Path, cores: Sequence[int]) -> None:
        self._rows, self._cache, self._cores = rows, cache, cores
        self._workers: dict[str, Worker] = {}
        self._exit = ExitStack()
        self.versions: dict[str, str] = {}
        self.missing: dict[str, str] = {}

    def __enter__(self) -> "Contest":
        with ExitStack() as on_failure:
            for contender in dict.fromkeys(each for row in self._rows for each in row.contenders):
                works = [row.work for row in self._rows if contender in row.contenders]
                try:
                    worker = on_failure.enter_context(start(contender, self._cache, self._cores, works))
                except Missing as reason:
                    self.missing[contender.name] = str(reason)
                    sys.stderr.write(f"LEFT OUT: {contender.name}: {reason}\n")
                    continue
                self._workers[contender.name] = worker
                self.versions[contender.family] = worker.facts["version"]
            self._exit = on_failure.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def run(self, row: Row, rounds: int) -> Runs:
        """Everybody in turns, `rounds` times, by the processor's time where one core computes, else by the wall's."""
        clock = "cpu_s" if all(each.threads == 1 for each in row.contenders) else "wall_s"
        runs, work = Runs(), row.work
        stepping = [each.name for each in row.contenders if each.name in self._workers and each.family not in row.whole]
        for name in stepping:
            worker = self._workers[name]
            worker.ask("prefill", sequences=work.sequences, tokens=work.tokens)
            if work.steps:
                worker.ask("decode", steps=2)  # warm up
        for _, name in interleaved(stepping, rounds):
            runs.add(name, self._once(self._workers[name], work), clock)
        for each in row.peers:
            if each.family in row.whole and each.name in self._workers:
                runs.add(each.name, _without_prompts(self._workers[each.name], work), clock)
        return runs

    def _once(self, worker: Worker, work: Work) -> dict[str, Any]:
        if work.steps:
            return worker.ask("decode", steps=work.steps)
        return worker.ask("prefill", sequences=work.sequences, tokens=work.tokens)
