"""What the providers' models cost, as read on a day: `prices.json`, which ships with the package.

Prices change; the day is part of the catalog, and a price in the configuration goes before it. Left out are models whose
price is not one number per kind of token (those with a dearer band for long prompts): their price must be written.
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
    cached_input: float | None = None

    def price(self) -> Price:
        cached = self.input if self.cached_input is None else self.cached_input
        return Price(
            input_per_mtok=parse_dollars(self.input),
            cached_per_mtok=parse_dollars(cached),
            output_per_mtok=parse_dollars(self.output),
        )


class _Provider(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    source: str
    models: dict[str, _Entry]


class Catalog(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Prices by provider and model; `read` is the day on which they were looked up (ISO 8601)."""

    read: str
    unit: str
    providers: dict[str, _Provider]

    def price(self, kind: Kind, model: str) -> Price | None:
        """What `model` costs at the provider that `kind` speaks to; a date at its end does not change that."""
        provider = self.providers.get(kind.value)
        if provider is None:
            return None
        entry = provider.models.get(model) or provider.models.get(_DATED.sub("", model))
        return None if entry is None else entry.price()

    def names(self, kind: Kind) -> list[str]:
        """The models of a provider that have a price here."""
        provider = self.providers.get(kind.value)
        return [] if provider is None else sorted(provider.models)


@functools.cache
def shipped_catalog() -> Catalog:
    """The catalog of this package."""
    file = importlib.resources.files("servery.config") / "prices.json"
    return msgspec.json.decode(file.read_bytes(), type=Catalog)
