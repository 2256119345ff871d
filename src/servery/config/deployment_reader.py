"""The section of a deployment."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from msgspec import UNSET

from servery.config import errors, sections
from servery.config.catalog import Catalog
from servery.config.kinds import FACTS, KindFacts
from servery.config.reader import Reader
from servery.config.secret import Secret
from servery.config.sections import DeploymentSection
from servery.config.transport import (
    checked_authorities,
    checked_header,
    checked_probe_path,
    checked_region,
    checked_url,
)
from servery.config.types import DeploymentConfig, Kind, Price, Probe
from servery.config.units import parse_dollars, parse_duration, parse_weight

# What is wrong with an embedded deployment's `model` and `engine`: the key within its section, and what is told.
EngineCheck: TypeAlias = Callable[[str, Mapping[str, object]], Iterable[tuple[errors.Path, str]]]
_ONE_API = (Kind.EMBEDDED, Kind.ANTHROPIC, Kind.BEDROCK)  # whatever `apis` would say


class DeploymentReader:
    """Reads deployments; prices that are not written come from the catalog."""

    def __init__(self, reader: Reader, catalog: Catalog, check_engine: EngineCheck | None) -> None:
        self._reader = reader
        self._check_engine = check_engine
        self._catalog = catalog

    def deployment(self, name: str, value: Any) -> DeploymentConfig | None:
        """None, and a fault, when the value is no such section."""
        at = ("deployments", name)
        section = self._reader.section(DeploymentSection, value, at)
        if section is None:
            return None
        facts = FACTS[section.kind]
        self._check_kind(section, facts, at)
        model = section.model or name
        if section.kind is Kind.EMBEDDED and self._check_engine is not None:
            for path, message in self._check_engine(model, section.engine):
                self._reader.fault((*at, *path), message)
        return DeploymentConfig(
            name=name,
            kind=section.kind,
            tier=section.tier or facts.tier,
            model=model,
            url=self._url(section, facts, at),
            api_key=self._api_key(section, at),
            headers=self._headers(section, at),
            ca_file=None if section.ca_file is None else self._ca_file(section.ca_file, (*at, "ca_file")),
            region=section.region,
            weight=self._reader.read(parse_weight, section.weight, (*at, "weight"), 1.0),
            max_concurrency=section.max_concurrency,
            max_queue=section.max_queue,
            price=self._price(section, model, at),
            apis=frozenset(facts.apis if section.apis is None else section.apis),
            continues=section.continues or facts.continues,
            engine=MappingProxyType(dict(section.engine)),
            health=self._probe(section, facts, at),
        )

    def _check_kind(self, section: DeploymentSection, facts: KindFacts, at: errors.Path) -> None:
        kind = section.kind
        if section.url is None and facts.needs_url:
            self._reader.fault(
                (*at, "url"), f"a deployment of kind {kind.value} needs its url, such as http://10.0.0.5:8000/v1."
            )
        if kind is Kind.BEDROCK and section.region is None:
            self._reader.fault((*at, "region"), "a deployment of kind bedrock needs its region, such as us-east-1.")
        if section.region is not None and kind is not Kind.BEDROCK:
            self._reader.fault((*at, "region"), f"only kind bedrock has a region, and this is {kind.value}; remove it.")
        elif section.region is not None:
            self._reader.read(checked_region, section.region, (*at, "region"), "")
        if section.engine and kind is not Kind.EMBEDDED:
            self._reader.fault(
                (*at, "engine"), f"only kind embedded has an engine here, and this is {kind.value}; remove it."
            )
        if section.apis is not None and kind in _ONE_API:
            self._reader.fault(
                (*at, "apis"),
                f"only OpenAI-compatible kinds have a choice of APIs, and this is {kind.value}; remove it.",
            )
        for name in ("url", "api_key", "api_key_file", "headers", "ca_file"):
            if kind is Kind.EMBEDDED and getattr(section, name):
                self._reader.fault((*at, name), "an embedded engine is reached without the network; remove it.")

    def _url(self, section: DeploymentSection, facts: KindFacts, at: errors.Path) -> str | None:
        url = section.url or facts.url
        if url is None:
            return None
        at = (*at, "url")
        try:
            parts = urlsplit(url)
            is_right = parts.scheme in ("http", "https") and _is_host(parts.hostname) and parts.port != 0
        except ValueError:
            is_right = False
        if not is_right or any(c.isspace() or not c.isprintable() for c in url):
            shown = url.rpartition("@")[2]  # not what may be a password
            self._reader.fault(at, f"{shown!r} is no address; write http://HOST:PORT/v1 or https://HOST/v1.")
        elif parts.username is not None or parts.password is not None:
            self._reader.fault(at, "a url must not have a user or password in it; use api_key or headers.")
        elif parts.query or parts.fragment:
            self._reader.fault(at, "a url must end with its path: no '?' and no '#'.")
        else:
            return self._reader.read(checked_url, url, at, url)
        return url

    def _headers(self, section: DeploymentSection, at: errors.Path) -> Mapping[str, Secret]:
        return MappingProxyType(
            {
                name: Secret(self._reader.read(partial(checked_header, name), text, (*at, "headers", name), ""))
                for name, text in section.headers.items()
            }
        )

    def _ca_file(self, text: str, at: errors.Path) -> Path:
        path = self._reader.path(text, at)
        return self._reader.read(checked_authorities, path, at, path) if path.is_file() else path

    def _api_key(self, section: DeploymentSection, at: errors.Path) -> Secret | None:
        if section.api_key is not None and section.api_key_file is not None:
            self._reader.fault((*at, "api_key_file"), "api_key is given, too; keep one of them.")
        if section.api_key_file is not None:
            return self._reader.key(
                self._reader.file(section.api_key_file, (*at, "api_key_file")).strip(), (*at, "api_key_file")
            )
        return None if section.api_key is None else self._reader.key(section.api_key, (*at, "api_key"))

    def _price(self, section: DeploymentSection, model: str, at: errors.Path) -> Price:
        at = (*at, "price")
        if isinstance(section.price, sections.PriceSection):
            return self._written_price(section.price, at)
        if section.price == "free" or section.kind is Kind.EMBEDDED:
            return Price()
        price = self._catalog.price(section.kind, model)
        if price is None:
            known = self._catalog.names(section.kind)
            listed = f" The catalog has {', '.join(known)}." if known else ""
            message = (
                f"no price is known for '{model}'; write price: {{input: ..., output: ...}} in dollars per million "
                f"tokens, price: {{per_hour: ...}}, or price: free.{listed}"
            )
            self._reader.fault(at, message)
        return price or Price()

    def _written_price(self, price: sections.PriceSection, at: errors.Path) -> Price:
        self._check_whole(price, at)

        def money(name: str) -> int:
            given = getattr(price, name)
            return 0 if given is None else self._reader.read(parse_dollars, given, (*at, name), 0)

        return Price(
            input_per_mtok=money("input"),
            cached_per_mtok=money("input" if price.cached_input is None else "cached_input"),
            output_per_mtok=money("output"),
            per_hour=money("per_hour"),
        )

    def _check_whole(self, price: sections.PriceSection, at: errors.Path) -> None:
        """What is left out is not free by that: a price of tokens has both sides, whose 0 is written."""
        if price == sections.PriceSection():
            self._reader.fault(
                at, "no price is in it; write input and output in dollars per million tokens, per_hour, or price: free."
            )
        is_per_token = not (price.input is price.output is price.cached_input is None)
        for name in ("input", "output"):
            if is_per_token and getattr(price, name) is None:
                self._reader.fault(
                    at,
                    f"the price of {name} tokens is missing; write {name}: in dollars per million, 0 if they are free.",
                )

    def _probe(self, section: DeploymentSection, facts: KindFacts, at: errors.Path) -> Probe:
        if section.health is UNSET:
            return Probe(path=facts.health)
        at = (*at, "health")
        path = section.health.path
        return Probe(
            path=None if path is None else self._reader.read(checked_probe_path, path, (*at, "path"), "/"),
            interval_s=self._reader.read(parse_duration, section.health.interval, (*at, "interval"), 1.0),
            timeout_s=self._reader.read(parse_duration, section.health.timeout, (*at, "timeout"), 1.0),
        )


def _is_host(name: str | None) -> bool:
    """Whether a name can be looked up: no empty label, none of more than 63 bytes."""
    try:
        return bool((name or "").encode("idna"))
    except UnicodeError:
        return False
