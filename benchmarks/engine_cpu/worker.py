"""What runs inside the process of each engine that is measured: orders come as lines of JSON, figures go back so.

Nothing here is imported but the standard library: a peer runs in its own environment, where this package is not
installed. An order is one of

  {"do": "prefill", "sequences": 8, "tokens": 128}  forget everything, compute prompts of random tokens
  {"do": "decode", "steps": 16}                     as many tokens more for each of them
  {"do": "batch", "sequences": 32, "prompt": 16, "tokens": 16}  both at once, where an engine has no steps

and its answer has `tokens` that were computed and the `wall_s` and `cpu_s` that this took; a decoding engine that knows
how many bytes it had to read says so in `read_bytes`.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol


class Engine(Protocol):
    """An engine with a loaded model."""

    version: str

    def prefill(self, sequences: int, tokens: int) -> None:
        """Forget everything, then compute that many prompts of that many tokens, to their first answer token."""
        ...

    def decode(self, steps: int) -> None:
        """Compute so many further tokens of each sequence, one step after another."""
        ...


def prompts(sequences: int, tokens: int, vocab_size: int) -> list[list[int]]:
    """The same for every engine, and no two with the same beginning."""
    return [
        [(7919 * (row + 1) + 104729 * at) % (vocab_size - 16) + 8 for at in range(tokens)] for row in range(sequences)
    ]


def serve(make: Callable[..., Engine]) -> None:
    """Load the model that the command line describes (one JSON object), then carry out orders until there are no more."""
    out, sys.stdout = sys.stdout, sys.stderr  # libraries that print are not to be taken for answers
    began = time.perf_counter()
    engine = make(**json.loads(sys.argv[1]))
    _tell(out, {"version": engine.version, "load_s": time.perf_counter() - began})
    sequences = 0
    for line in sys.stdin:
        order = json.loads(line)
        match order.pop("do"):
            case "prefill":
                sequences = order["sequences"]
                _tell(out, _timed(engine, engine.prefill, sequences * order["tokens"], order))
            case "decode":
                _tell(out, _timed(engine, engine.decode, sequences * order["steps"], order))
            case "batch":
                batch: Any = engine
                _tell(out, _timed(engine, batch.batch, order["sequences"] * order["tokens"], order))


def _timed(engine: Engine, work: Callable[..., None], tokens: int, order: dict[str, int]) -> dict[str, float]:
    read_before = getattr(engine, "read_bytes", 0)
    wall, cpu = time.perf_counter(), time.process_time()
    work(**order)
    wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "tokens": tokens,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "read_bytes": getattr(engine, "read_bytes", 0) - read_before,
    }


def _tell(out: Any, answer: dict[str, Any]) -> None:
    out.write(json.dumps(answer) + "\n")
    out.flush()
