"""Another machine that has processes of the model, as the first process sees it: listened to until it is lost or sent away."""

import contextlib
import threading
from collections.abc import Callable

from servery.engine.ranks.messages import End, Line
from servery.engine.ranks.node_line import SILENCE_S, Beat, Leave, Lost, NodeLine

END_TIMEOUT_S = 5.0


class Node:
    """A machine that takes part. `lines` go to its processes, by rank. `close` it in any case."""

    def __init__(
        self, rank: int, line: NodeLine, on_loss: Callable[[str], None], *, silence_s: float = SILENCE_S
    ) -> None:
        """Listen from now on; `on_loss` is told, on a thread of its own, of why the node can compute no more."""
        self.rank = rank
        self.address = line.peer
        self.lines: dict[int, Line] = {}
        self.loss: str | None = None
        self._line = line
        self._silence_s = silence_s
        self._on_loss = on_loss
        self._is_leaving = False
        self._thread = threading.Thread(target=self._listen, daemon=True, name=f"node-{rank}")
        self._thread.start()

    def close(self) -> None:
        """Send it away: its processes end, and it leaves. Safe to call twice."""
        self._is_leaving = True
        for line in self.lines.values():
            with contextlib.suppress(OSError):
                line.send(End())
        with contextlib.suppress(OSError):
            self._line.send(Leave())
        self._thread.join(END_TIMEOUT_S)  # it closes its end when its processes have ended
        self._line.close()
        for line in self.lines.values():
            line.close()

    def _listen(self) -> None:
        try:
            while True:
                match self._line.receive(self._silence_s):
                    case Beat():
                        self._line.send(Beat())
                    case Lost(message=message):
                        self._lose(message)
                    case other:
                        raise ConnectionAbortedError(f"it said {type(other).__name__}")
        except TimeoutError:
            self._lose(f"nothing was heard of it for {self._silence_s:g} s.")
        except OSError as error:
            self._lose(f"it is gone ({error}).")
        if not self._is_leaving:
            for line in self.lines.values():
                line.cut()  # whoever waits for an answer of its processes need not

    def _lose(self, why: str) -> None:
        if self._is_leaving or self.loss is not None:
            return
        self.loss = f"node {self.rank} ({self.address}): {why}"
        self._on_loss(self.loss)
