"""Where the outputs of one request wait until whoever asked for them takes them."""

import asyncio

from servery.engine.errors import EngineError
from servery.engine.request import Output


class Mailbox:
    """What has arrived for one request and was not taken yet; bounded by the request's own max_tokens."""

    __slots__ = ("arrived", "outputs", "refusal")

    def __init__(self) -> None:
        self.outputs: list[Output] = []
        self.refusal: EngineError | None = None
        self.arrived = asyncio.Event()

    def put(self, output: Output) -> None:
        """Something has arrived."""
        self.outputs.append(output)
        self.arrived.set()

    def refuse(self, error: EngineError) -> None:
        """Nothing more will arrive, for this reason."""
        self.refusal = error
        self.arrived.set()

    async def take(self) -> list[Output]:
        """Everything that has arrived, waiting for the first; raises the refusal once the outputs before it are taken."""
        await self.arrived.wait()
        outputs, self.outputs = self.outputs, []
        if not outputs and self.refusal is not None:
            raise self.refusal
        if self.refusal is None:
            self.arrived.clear()
        return outputs
