"""An engine of this process that tells what was decided about it."""

from collections.abc import Callable

from servery.engine.engine import AsyncEngine
from servery.engine.stats import EngineInfo
from servery.server.options import ServedModel
from servery.upstream.embedded import EmbeddedUpstream


class Announced(EmbeddedUpstream):
    """Tells what was decided about its engine whenever the model has been loaded."""

    def __init__(self, model: ServedModel, announce: Callable[[str, EngineInfo], None]) -> None:
        engine = AsyncEngine(model.engine, name=model.name)
        formats = {"tool_format": model.tool_format, "reasoning_format": model.reasoning_format}
        super().__init__(model.name, engine, **formats)
        self._announce = announce

    async def start(self, memory_bytes: int | None = None) -> None:
        """As any; then tell."""
        await super().start(memory_bytes)
        self._announce(self.name, self.engine.info)
