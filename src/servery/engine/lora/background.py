"""Reads adapters beside the engine's loop, so that nobody's tokens wait for a disk."""

from concurrent.futures import Future, ThreadPoolExecutor

from servery.engine.adapter_source import AdapterInfo, AdapterSource
from servery.engine.errors import LoadError
from servery.engine.lora.adapter import Adapter
from servery.engine.lora.pool import AdapterPool


class BackgroundReader:
    """One thread that reads for `pool`; the pool itself is changed by the loop alone, in `start` and `finished`."""

    def __init__(self, pool: AdapterPool) -> None:
        self._pool = pool
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="adapter")
        self._under_way: dict[int, Future[Adapter]] = {}

    @property
    def is_busy(self) -> bool:
        """Whether an adapter is being read."""
        return bool(self._under_way)

    def start(self, adapter_id: int, source: AdapterSource) -> None:
        """Begin to read an adapter; raises `LoadError` when there is no place for it."""
        self._pool.reserve(adapter_id, source)
        self._under_way[adapter_id] = self._thread.submit(self._pool.read, adapter_id, source)

    def finished(self) -> list[tuple[int, AdapterInfo | LoadError]]:
        """By id, the adapters that can be used now, and why others cannot; each once."""
        done = [adapter_id for adapter_id, future in self._under_way.items() if future.done()]
        return [(adapter_id, self._finish(adapter_id)) for adapter_id in done]

    def close(self) -> None:
        """Begin nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _finish(self, adapter_id: int) -> AdapterInfo | LoadError:
        try:
            return self._pool.install(self._under_way.pop(adapter_id).result())
        except LoadError as error:
            self._pool.release(adapter_id)
            return error
