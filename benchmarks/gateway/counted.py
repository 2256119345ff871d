"""Servery's command line with its calls counted from one SIGUSR1 to the next, which writes them down.

Beside FILE one that ends in `.begun` says that the first was heard.

python -m benchmarks.gateway.counted FILE serve --config servery.yaml
"""

import json
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from servery.cli import main


class Calls:
    """How often each function of Python's was called or gone on with, and each of C by the function that called it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._counts: Counter[str] = Counter()
        self._is_on = False

    def turn(self, *_: object) -> None:
        """Begin to count, or write down what was counted."""
        self._is_on = not self._is_on
        if self._is_on:
            self._counts.clear()
            self._file.with_suffix(".begun").touch()
            sys.setprofile(self._see)
            return
        sys.setprofile(None)
        written = self._file.with_suffix(".new")
        written.write_text(json.dumps(self._counts))
        written.rename(self._file)

    def _see(self, frame: FrameType, event: str, called: Any) -> None:
        if event == "call":
            self._counts[_name(frame)] += 1
        elif event == "c_call":
            self._counts[f"{_name(frame)} -> {getattr(called, '__qualname__', called)}"] += 1


def _name(frame: FrameType) -> str:
    """Of Servery's functions with the path below `src`, of others with the name of the file."""
    code = frame.f_code
    _, is_own, path = code.co_filename.rpartition("/src/servery/")
    return f"{'servery/' if is_own else ''}{path if is_own else Path(path).name}:{code.co_qualname}"


if __name__ == "__main__":
    calls = Calls(Path(sys.argv[1]))
    signal.signal(signal.SIGUSR1, calls.turn)
    sys.exit(main(sys.argv[2:]))
