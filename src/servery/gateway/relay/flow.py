"""The ordinary piece of a stream on its way to the client: counted and sent in the very call that brings it.

No task wakes, nothing is waited for. What cannot go so - because the client reads slower, or another deployment goes on
with the answer - is not taken here and goes the way on which there is time to wait.
"""

from collections.abc import Callable

from servery.gateway.dispatch.attempt import Attempt
from servery.gateway.dispatch.patience import Patience
from servery.gateway.exchange import Exchange
from servery.gateway.relay.keeping import Keeping
from servery.gateway.relay.silence import Silence
from servery.gateway.relay.transcript import Transcript
from servery.upstream.upstream import Chunk


class Flow:
    """One attempt's pieces, as one client reads them; `patience` is with the deployment, `silence` broken by what is sent."""

    __slots__ = ("_attempt", "_client", "_clock", "_keeping", "_patience", "_record", "_silence", "_transcript")

    def __init__(
        self,
        exchange: Exchange,
        attempt: Attempt,
        transcript: Transcript,
        patience: Patience,
        silence: Silence | None,
        keeping: Keeping | None,
        clock: Callable[[], float],
    ) -> None:
        self._attempt = attempt
        self._client = exchange.client
        self._clock = clock
        self._keeping = keeping
        self._patience = patience
        self._record = exchange.record
        self._silence = silence
        self._transcript = transcript

    def take(self, chunk: Chunk) -> bool:
        """Send a piece on; False: nothing was done with it."""
        data = chunk.data
        if self._transcript.is_resumed or (data and not self._client.stream_at_once(data)):
            return False
        self.told(chunk)
        if data:
            self.sent(data)
        return True

    def told(self, chunk: Chunk) -> bytes:
        """Count a piece; what the client is to read of it. Raises `Diverged`."""
        now = self._clock()
        self._attempt.add(chunk, now)
        transcript = self._transcript
        data = transcript.tell(chunk)
        self._record.add(transcript.counted(chunk, data) if transcript.is_resumed else chunk, now)
        if not data and (chunk.data or chunk.tokens):  # else it is sent now
            self._patience.progress()
        return data

    def sent(self, data: bytes) -> None:
        """The client is being sent this."""
        if self._keeping is not None:
            self._keeping.add(data)
        now = self._patience.progress()
        if self._silence is not None:
            self._silence.last_s = now
