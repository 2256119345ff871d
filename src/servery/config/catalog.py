"""What the providers' models cost, as read somewhere on a day: `prices.json`, which ships with the package.

Prices change; where and when each was read is part of the catalog, and a price in the configuration goes before it. Left
out are models whose price is not one number per kind of token (those with a dearer band for long prompts): their price must
be written.
"""

import functools
import importlib.resources
import re

import msgspec

from servery.config.types import Kind, Price
from servery.config.units import parse_dollars

_DATED = re.compile(r"-(?:20\d{6}|20\d\d-\d\d-\d\d|latest)$")


class _Entry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    input: float
    output: float
    source: str
    cached_input: float | None = None

    def price(self) -> Price:
        cached = self.input if self.cached_input is None else self.cached_input
        return Price(
            input_per_mtok=parse_dollars(self.input),
            cached_per_mtok=parse_dollars(cached),
            output_per_mtok=parse_dollars(self.output),
        )


class Source(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Where prices were read, on which day (ISO 8601); `is_own`: it is the provider's own page, else somebody's copy."""

    url: str
    read: str
    is_own: bool

    def __str__(self) -> str:
        return f"read {self.read} at {self.url}{'' if self.is_own else ', at second hand'}"


class Catalog(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Prices by provider and model, and where each comes from."""

    unit: str
    sources: dict[str, Source]
    providers: dict[str, dict[str, _Entry]]

    def price(self, kind: Kind, model: str) -> Price | None:
        """What `model` costs at the provider that `kind` speaks to; a date at its end does not change that."""
        entry = self._entry(kind, model)
        return None if entry is None else entry.price()

    def source(self, kind: Kind, model: str) -> Source | None:
        """Where the model's price was read; None if it has none here."""
        entry = self._entry(kind, model)
        return None if entry is None else self.sources[entry.source]

    def names(self, kind: Kind) -> list[str]:
        """The models of a provider that have a price here."""
        return sorted(self.providers.get(kind.value, ()))

    def _entry(self, kind: Kind, model: str) -> _Entry | None:
        models = self.providers.get(kind.value, {})
        return models.get(model) or models.get(_DATED.sub("", model))


@functools.cache
def shipped_catalog() -> Catalog:
    """The catalog of this package."""
    file = importlib.resources.files("servery.config") / "prices.json"
    return msgspec.json.decode(file.read_bytes(), type=Catalog)
