"""The adapters that an engine holds, and the decoder that applies them."""

import contextlib
import dataclasses
import logging
from collections.abc import Collection, Iterator

import msgspec

from servery.engine.adapter_source import AdapterInfo, AdapterSource
from servery.engine.batch import Batch
from servery.engine.decoder import Decoder
from servery.engine.errors import LoadError, UnknownAdapter
from servery.engine.linear import Linear
from servery.engine.lora.adapted import ActiveRows, AdaptedLinear
from servery.engine.lora.adapter import Adapter
from servery.engine.lora.reader import AdapterLimits, read_adapter
from servery.engine.step import Step

log = logging.getLogger(__name__)


@dataclasses.dataclass(slots=True)
class _Place:
    """One of the places for adapters; being read while `adapter` is None, and kept for its users while `is_retired`."""

    source: AdapterSource
    adapter: Adapter | None = None
    is_retired: bool = False


class AdapterPool:
    """Up to `max_loras` adapters over `model`, by id.

    An adapter is reserved a place, read (on any thread), installed, and some day retired: new requests are refused
    then, and its memory goes with the last request that uses it. An id names one of these lives only.
    """

    def __init__(self, model: Decoder, limits: AdapterLimits) -> None:
        self._limits = limits
        self._plain = model
        self._active = ActiveRows()
        self._adapted = model.adapted(self._wrapped) if limits.max_loras else model
        self._places: dict[int, _Place] = {}
        if limits.max_loras and model.loop is not None:
            log.info("steps in which a request has an adapter are computed operation by operation, others in one call")

    @property
    def nbytes(self) -> int:
        """Memory of all adapters held."""
        return sum(place.adapter.info.nbytes for place in self._places.values() if place.adapter)

    @property
    def num_loaded(self) -> int:
        """How many adapters new requests may use."""
        return sum(place.adapter is not None and not place.is_retired for place in self._places.values())

    @property
    def has_retired(self) -> bool:
        """Whether an adapter waits for its last user."""
        return any(place.is_retired for place in self._places.values())

    def reserve(self, adapter_id: int, source: AdapterSource) -> None:
        """Take a place for an adapter that will be read; raises `LoadError` when there is none.

        Whoever gives out ids keeps names apart: the last users of one may outlive its name.
        """
        limit, held = self._limits.max_loras, self._places.values()
        if not limit:
            raise LoadError(f"adapter {source.name!r} cannot be loaded: the engine was started without max_loras.")
        if len(held) >= limit:
            names = ", ".join(
                repr(place.source.name) + " (in use until its last request ends)" * place.is_retired for place in held
            )
            raise LoadError(
                f"adapter {source.name!r} has no place: {len(held)} are held, {names}, and max_loras is {limit}; "
                "unload one, or start the engine with more."
            )
        self._places[adapter_id] = _Place(source)

    def read(self, adapter_id: int, source: AdapterSource) -> Adapter:
        """The adapter as it lies on disk; changes nothing here, so that it may run beside a step. Raises `LoadError`."""
        try:
            return read_adapter(source, adapter_id, self._plain.config, self._limits.max_rank)
        except (RuntimeError, MemoryError) as error:  # what torch raises when the system gives no memory after all
            raise LoadError(f"adapter {source.name!r} could not be loaded: {error}") from error

    def install(self, adapter: Adapter) -> AdapterInfo:
        """Let requests use an adapter that has its place."""
        self._places[adapter.info.adapter_id].adapter = adapter.on(self._plain.device)
        return adapter.info

    def release(self, adapter_id: int) -> None:
        """Give up the place of an adapter that could not be read."""
        self._places.pop(adapter_id, None)

    def retire(self, adapter_id: int) -> None:
        """Let no new request use an adapter; unknown ids are ignored. `sweep` frees it."""
        place = self._places.get(adapter_id)
        if place is not None:
            place.is_retired = True

    def sweep(self, in_use: Collection[int]) -> None:
        """Free the retired adapters that are not `in_use`."""
        for adapter_id in [key for key, place in self._places.items() if place.is_retired and key not in in_use]:
            del self._places[adapter_id]

    def check(self, adapter_id: int) -> None:
        """Raise `UnknownAdapter` unless new requests may use the adapter; 0 stands for none."""
        place = self._places.get(adapter_id)
        if adapter_id and (place is None or place.adapter is None or place.is_retired):
            raise UnknownAdapter("the adapter that this request is for is not loaded, or is no longer.", "model")

    def read_bytes(self, step: Step) -> int:
        """The weights of the adapters that a step needs."""
        if not self._places:
            return 0
        adapters = (self._places.get(each) for each in {item.sequence.parent.adapter for item in step.scheduled})
        return sum(place.adapter.info.nbytes for place in adapters if place and place.adapter)

    def arranged(self, step: Step) -> Step:
        """The same step with the rows of one adapter side by side, so that they are one product."""
        if not self._places:
            return step
        ordered = sorted(step.scheduled, key=lambda item: item.sequence.parent.adapter)
        return msgspec.structs.replace(step, scheduled=tuple(ordered))

    @contextlib.contextmanager
    def decoder(self, step: Step, batch: Batch) -> Iterator[Decoder]:
        """Inside, the decoder for a step whose rows are `batch`: the plain one unless one of them has an adapter."""
        self._active.segments = self._segments(step, batch) if self._places else ()
        try:
            yield self._adapted if self._active.segments else self._plain
        finally:
            self._active.segments = ()

    def _wrapped(self, key: str, linear: Linear) -> AdaptedLinear:
        return AdaptedLinear(linear, key, self._active)

    def _segments(self, step: Step, batch: Batch) -> tuple[tuple[int, int, Adapter], ...]:
        """The rows of each adapter; neighbours that share one are one segment."""
        segments: list[tuple[int, int, Adapter]] = []
        for item, extent in zip(step.scheduled, batch.extents, strict=True):
            place = self._places.get(item.sequence.parent.adapter)
            if place is None or place.adapter is None:
                continue
            first, last = extent.query_start, extent.query_start + extent.num_tokens
            if segments and segments[-1][1] == first and segments[-1][2] is place.adapter:
                first = segments.pop()[0]
            segments.append((first, last, place.adapter))
        return tuple(segments)
