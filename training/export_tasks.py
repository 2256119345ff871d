"""Held-out conversations as a task file of ``servery eval``: ``python -m training.export_tasks`` writes the shipped one.

One answer of each conversation is asked, with the earlier turns as they should be: two answers of one conversation would
not be independent, which the statistics of the gate take them to be. A stratum's tasks are spread evenly over its kinds,
and no question stands twice: a generator that can ask only so many different questions gives fewer tasks than wanted,
and that is said. The same arguments write the same lines on every machine.
"""

import argparse
import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from servery import amuse
from training.chat import messages
from training.mix import KINDS, STRATA, Dialogue, examination
from training.tasks.scene import Kind

MAX_TOKENS = 1024  # the longest right answer has 681
PER_STRATUM = 700  # about what the gate needs: baseline 80 %, flips 10 %, a true loss of one point
_TURNS_DRAWN = 48  # at most, per task wanted, until enough are different: conversations have several turns


def tasks_of(dialogue: Dialogue) -> Iterator[dict[str, Any]]:
    """A task for each answer of a conversation; its id and stratum are added by whoever chooses."""
    said = _with_call_ids(messages(dialogue))
    for at, message in enumerate(said):
        if message["role"] == "assistant":
            tools = {"tools": list(dialogue.tools)} if dialogue.tools else {}
            yield {"messages": said[:at], **tools, "expected": message["content"], "scorer": "exact"}


def _with_call_ids(said: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The API wants to know which call a tool's result belongs to."""
    return [
        {**message, "tool_call_id": f"call-{at}"} if message["role"] == "tool" else message
        for at, message in enumerate(said)
    ]


def different(kind: Kind, seed: int, wanted: int) -> list[dict[str, Any]]:
    """Up to ``wanted`` tasks of one kind, none of which asks what another does."""
    found: dict[str, dict[str, Any]] = {}
    for number, dialogue in enumerate(examination(kind, wanted * _TURNS_DRAWN, seed)):
        answers = [*tasks_of(dialogue)]
        task = answers[number % len(answers)]  # the first of one, the second of the next, ...
        found.setdefault(question(task), task)
        if len(found) >= wanted:
            break
    return [*found.values()]


def question(task: dict[str, Any]) -> str:
    """What is asked, as a text that is equal for equal questions."""
    return json.dumps([task["messages"], task.get("tools")])


def stratum(name: str, per_stratum: int, seed: int) -> list[dict[str, Any]]:
    """The tasks of one stratum: as many of each kind, and more of the others where one has too few."""
    kinds = [kind for kind in KINDS if kind.stratum == name]
    pools = {kind.name: different(kind, seed, _share(kinds, per_stratum)) for kind in kinds}
    found: dict[str, dict[str, Any]] = {}
    for at in range(per_stratum):
        for kind_name, pool in pools.items():
            if at < len(pool) and len(found) < per_stratum:
                fields = {"id": f"{name}/{kind_name}/{at}", "stratum": name, **pool[at], "max_tokens": MAX_TOKENS}
                found.setdefault(question(pool[at]), fields)
    return [*found.values()]


def _share(kinds: list[Kind], per_stratum: int) -> int:
    """How many tasks to draw of each kind: twice its share, so that one can stand in for another that runs dry."""
    return min(per_stratum, 2 * -(-per_stratum // len(kinds)))


def write(file: Path, lines: list[str]) -> None:
    """One task per line; packed, without a date, if the name ends in ``.gz``."""
    data = ("\n".join(lines) + "\n").encode()
    file.write_bytes(gzip.compress(data, mtime=0) if file.suffix == ".gz" else data)


def main() -> None:
    """Write the file, and say how many tasks each stratum has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=amuse.TASKS, help="else the one that is shipped")
    parser.add_argument("--per-stratum", type=int, default=PER_STRATUM, help="tasks wanted of each stratum")
    parser.add_argument("--strata", nargs="+", choices=STRATA, default=list(STRATA))
    parser.add_argument("--seed", type=int, default=7, help="7: the questions that the model card is about")
    arguments = parser.parse_args()
    lines = []
    for name in arguments.strata:
        found = stratum(name, arguments.per_stratum, arguments.seed)
        lines += [json.dumps(task, ensure_ascii=False) for task in found]
        fewer = "" if len(found) == arguments.per_stratum else f", no more than that are different of {name}"
        print(f"{name:12} {len(found)}{fewer}", file=sys.stderr)
    write(arguments.file, lines)


if __name__ == "__main__":
    main()
