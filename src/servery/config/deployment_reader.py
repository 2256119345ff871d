"""The section of a deployment."""

from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from msgspec import UNSET

from servery.config import errors, sections
from servery.config.catalog import Catalog
from servery.config.kinds import FACTS, KindFacts
from servery.config.reader import Reader
from servery.config.secret import Secret
from servery.config.sections import DeploymentSection
from servery.config.types import DeploymentConfig, Kind, Price, Probe
from servery.config.units import parse_dollars, parse_duration


class DeploymentReader:
    """Reads deployments; prices that are not written come from the catalog."""

    def __init__(self, reader: Reader, catalog: Catalog) -> None:
        self._reader = reader
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
        return DeploymentConfig(
            name=name,
            kind=section.kind,
            tier=section.tier or facts.tier,
            model=model,
            url=self._url(section, facts, at),
            api_key=self._api_key(section, at),
            headers=MappingProxyType({key: Secret(text) for key, text in section.headers.items()}),
            ca_file=None if section.ca_file is None else self._reader.path(section.ca_file, (*at, "ca_file")),
            region=section.region,
            weight=section.weight,
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
        if section.engine and kind is not Kind.EMBEDDED:
            self._reader.fault(
                (*at, "engine"), f"only kind embedded has an engine here, and this is {kind.value}; remove it."
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
            is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_right = False
        if not is_right or any(c.isspace() or not c.isprintable() for c in url):
            shown = url.rpartition("@")[2]  # not what may be a password
            self._reader.fault(at, f"{shown!r} is no address; write http://HOST:PORT/v1 or https://HOST/v1.")
        elif parts.username is not None or parts.password is not None:
            self._reader.fault(at, "a url must not have a user or password in it; use api_key or headers.")
        elif parts.query or parts.fragment:
            self._reader.fault(at, "a url must end with its path: no '?' and no '#'.")
        return url.rstrip("/")

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
            listed = f" The catalog of {self._catalog.read} has {', '.join(known)}." if known else ""
            message = (
                f"no price is known for '{model}'; write price: {{input: ..., output: ...}} in dollars per million "
                f"tokens, price: {{per_hour: ...}}, or price: free.{listed}"
            )
            self._reader.fault(at, message)
        return price or Price()

    def _written_price(self, price: sections.PriceSection, at: errors.Path) -> Price:
        cached = price.input if price.cached_input is None else price.cached_input
        return Price(
            input_per_mtok=self._reader.read(parse_dollars, price.input, (*at, "input"), 0),
            cached_per_mtok=self._reader.read(parse_dollars, cached, (*at, "cached_input"), 0),
            output_per_mtok=self._reader.read(parse_dollars, price.output, (*at, "output"), 0),
            per_hour=self._reader.read(parse_dollars, price.per_hour, (*at, "per_hour"), 0),
        )

    def _probe(self, section: DeploymentSection, facts: KindFacts, at: errors.Path) -> Probe:
        if section.health is UNSET:
            return Probe(path=facts.health)
        at = (*at, "health")
        return Probe(
            path=section.health.path,
            interval_s=self._reader.read(parse_duration, section.health.interval, (*at, "interval"), 1.0),
            timeout_s=self._reader.read(parse_duration, section.health.timeout, (*at, "timeout"), 1.0),
        )
