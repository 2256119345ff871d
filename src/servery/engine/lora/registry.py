"""An engine's adapters as its handle knows them: by name, with who uses them. No torch, no process."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from servery.engine.adapter_source import AdapterInfo, AdapterSource
from servery.engine.errors import BadAdapterName, EngineError, UnknownAdapter


@dataclass(slots=True, eq=False)
class _Entry:
    """One life of a name, from being asked for to its last user. `loaded` is set once, to the info or an error."""

    adapter_id: int
    source: AdapterSource
    loaded: "asyncio.Future[AdapterInfo]"
    info: AdapterInfo | None = None
    users: int = 0
    uses: int = 0
    is_retired: bool = False


@dataclass(slots=True)
class AdapterRegistry:
    """Names to adapters. `unload` is called with an adapter's id once nobody can use it any more.

    A name is given to new users from when its adapter is loaded until it is retired; those who have it then keep it.
    """

    unload: Callable[[int], None]
    _by_name: dict[str, _Entry] = field(default_factory=dict)
    _by_id: dict[int, _Entry] = field(default_factory=dict)
    _last_id: int = 0

    @property
    def loaded(self) -> Mapping[str, AdapterInfo]:
        """What can be asked for, by name."""
        return {name: entry.info for name, entry in self._by_name.items() if entry.info is not None}

    @property
    def uses(self) -> Mapping[str, int]:
        """How often each adapter that can be asked for was."""
        return {name: entry.uses for name, entry in self._by_name.items() if entry.info is not None}

    @property
    def sources(self) -> list[tuple[int, AdapterSource]]:
        """What a new process has to load before it is as good as its predecessor, by id."""
        return [(entry.adapter_id, entry.source) for entry in self._by_name.values() if entry.info is not None]

    def begin(self, source: AdapterSource) -> "tuple[int, asyncio.Future[AdapterInfo]]":
        """Take the name; returns its id and what will tell how loading ended. Raises `BadAdapterName` if it is taken."""
        if source.name in self._by_name:
            raise BadAdapterName(
                f"an adapter named {source.name!r} is loaded already, or being loaded; unload it first, or take another name."
            )
        self._last_id += 1
        entry = _Entry(self._last_id, source, asyncio.get_running_loop().create_future())
        self._by_name[source.name] = self._by_id[entry.adapter_id] = entry
        return entry.adapter_id, entry.loaded

    def succeed(self, info: AdapterInfo) -> None:
        """The engine has loaded it, for the first time or again."""
        entry = self._by_id.get(info.adapter_id)
        if entry is not None:
            entry.info = info
            if not entry.loaded.done():
                entry.loaded.set_result(info)

    def fail(self, adapter_id: int, error: EngineError) -> None:
        """The engine could not load it; the name is free again."""
        entry = self._by_id.pop(adapter_id, None)
        if entry is None:
            return
        if self._by_name.get(entry.source.name) is entry:
            del self._by_name[entry.source.name]
        if not entry.loaded.done():
            entry.loaded.set_exception(error)
            entry.loaded.exception()  # seen: whoever asked may have gone

    def fail_unfinished(self, error: EngineError) -> None:
        """The process has died: what it was loading is not loaded."""
        for entry in [each for each in self._by_id.values() if each.info is None]:
            self.fail(entry.adapter_id, error)

    def retire(self, name: str) -> int:
        """Give the name to nobody any more; returns how many still use it. Raises `UnknownAdapter`."""
        entry = self._require(name)
        del self._by_name[name]
        entry.is_retired = True
        self._free_if_unused(entry)
        return entry.users

    @contextlib.contextmanager
    def use(self, name: str) -> Iterator[int]:
        """Inside, the adapter of that name stays; gives its id. Raises `UnknownAdapter`."""
        entry = self._require(name)
        entry.users += 1
        entry.uses += 1
        try:
            yield entry.adapter_id
        finally:
            entry.users -= 1
            self._free_if_unused(entry)

    def _free_if_unused(self, entry: _Entry) -> None:
        if entry.is_retired and not entry.users and self._by_id.pop(entry.adapter_id, None) is not None:
            self.unload(entry.adapter_id)

    def _require(self, name: str) -> _Entry:
        entry = self._by_name.get(name)
        if entry is None or entry.info is None:
            known = ", ".join(repr(each) for each in sorted(self.loaded)) or "none"
            raise UnknownAdapter(f"no adapter named {name[:100]!r} is loaded; loaded are: {known}.", "model")
        return entry
