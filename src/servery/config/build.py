"""A parsed file becomes a `Config`: each section on its own, then what must hold between them."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET

from servery.byte_size import parse_byte_size
from servery.config import errors, sections
from servery.config.access import limits_of, parse_digest, parse_time
from servery.config.catalog import Catalog
from servery.config.errors import Fault
from servery.config.kinds import FACTS, KindFacts
from servery.config.ledger_place import ledger_place
from servery.config.references import broken_references
from servery.config.secret import Secret
from servery.config.sections import DeploymentSection, ModelSection
from servery.config.tree import Tree
from servery.config.types import (
    Config,
    DeploymentConfig,
    EarlierPolicy,
    Fallbacks,
    Hedge,
    KeyConfig,
    Kind,
    LedgerConfig,
    Limits,
    LimitsConfig,
    ModelConfig,
    Place,
    Price,
    Probe,
    Retry,
    Slo,
    Timeouts,
)
from servery.config.units import is_percentile, parse_dollars, parse_duration, parse_percentile, parse_share
from servery.config.validation import did_you_mean, explain

S = TypeVar("S", bound=msgspec.Struct)
V = TypeVar("V")


class Builder:
    """Reads sections out of a tree; what is wrong is noted in `faults`, and reading goes on."""

    def __init__(self, tree: Tree, folder: Path, catalog: Catalog) -> None:
        """Relative paths in the file are below `folder`."""
        self.faults: list[Fault] = list(tree.faults)
        self._tree = tree
        self._folder = folder
        self._catalog = catalog
        self._files: list[Path] = []

    def config(self, source: Path | None) -> Config | None:
        """The configuration, None when something is wrong with it."""
        root = self._tree.value
        if not isinstance(root, dict):
            if not self.faults:
                self._fault((), "the file must have sections: deployments and models, and if wanted server, defaults.")
            return None
        self._check_top(root)
        server = self._section(sections.ServerSection, root.get("server", {}), ("server",))
        deployments = {name: self._deployment(name, value) for name, value in self._named(root, "deployments")}
        defaults = self._defaults(root)
        models = {name: self._model(name, value, defaults) for name, value in self._named(root, "models")}
        known = {name: model for name, model in models.items() if model is not None}
        for path, message in broken_references(known, deployments, named=set(models)):
            self._fault(path, message)
        if server is None:
            return None
        config = self._server(server, known, deployments, source)
        config = dataclasses.replace(config, **self._access(root, known))
        return None if self.faults else config

    # The sections one by one.

    def _check_top(self, root: Mapping[str, Any]) -> None:
        names = sections.FileSections.__struct_fields__
        for name in root:
            if name not in names:
                self._fault((name,), f"there is no such section.{did_you_mean(name, names)}")

    def _defaults(self, root: Mapping[str, Any]) -> Any:
        """The section as it was written, empty when something is wrong with it: that is told once, not for each model."""
        before = len(self.faults)
        section = self._section(sections.DefaultsSection, root.get("defaults", {}), ("defaults",))
        if section is not None:
            self._timeouts(section.timeouts, ("defaults", "timeouts"))
            self._retry(section.retry, ("defaults", "retry"))
        return root.get("defaults", {}) if len(self.faults) == before else {}

    def _access(self, root: Mapping[str, Any], models: Mapping[str, ModelConfig]) -> dict[str, Any]:
        """Who may ask for what, and how much: fields of `Config`."""
        keys = {
            name: key
            for name, value in self._named(root, "keys", may_lack=True)
            if (key := self._api_user(name, value, models)) is not None
        }
        owners = {
            name: self._limits(section.limits, ("owners", name, "limits"))
            for name, value in self._named(root, "owners", may_lack=True)
            if (section := self._section(sections.OwnerSection, value, ("owners", name))) is not None
        }
        limiting = self._section(sections.LimitingSection, root.get("limits", {}), ("limits",))
        return {
            "keys": MappingProxyType(keys),
            "owners": MappingProxyType(owners),
            "limits": LimitsConfig() if limiting is None else self._limiting(limiting, ("limits",)),
        }

    def _api_user(self, name: str, value: Any, models: Mapping[str, ModelConfig]) -> KeyConfig | None:
        at = ("keys", name)
        section = self._section(sections.KeySection, value, at)
        if section is None:
            return None
        for model in section.models or []:
            if model not in models:
                self._fault((*at, "models"), f"there is no model '{model}'.{did_you_mean(model, models)}")
        given = [section.sha256] if isinstance(section.sha256, str) else section.sha256
        if not given:
            self._fault((*at, "sha256"), "name at least one; remove the key to revoke it.")
        expires = section.expires
        return KeyConfig(
            name=name,
            digests=tuple(self._read(parse_digest, each, (*at, "sha256"), b"") for each in given),
            owner=section.owner or "",
            models=None if section.models is None else frozenset(section.models),
            tiers=None if section.tiers is None else frozenset(section.tiers),
            expires_s=None if expires is None else self._read(parse_time, expires, (*at, "expires"), 0.0),
            limits=self._limits(section.limits, (*at, "limits")),
        )

    def _limits(self, section: sections.LimitsSection, at: errors.Path) -> Limits:
        return self._read(limits_of, section, at, Limits())

    def _limiting(self, section: sections.LimitingSection, at: errors.Path) -> LimitsConfig:
        if section.redis is not None and urlsplit(section.redis).scheme not in ("redis", "rediss", "unix"):
            self._fault((*at, "redis"), "this is no address of a Redis; write redis://HOST:6379/0.")
        return LimitsConfig(
            redis=None if section.redis is None else Secret(section.redis),
            deadline_s=self._read(parse_duration, section.deadline, (*at, "deadline"), 0.1),
            on_failure=section.on_failure,
            default_max_tokens=section.default_max_tokens,
        )

    def _named(self, root: Mapping[str, Any], section: str, *, may_lack: bool = False) -> list[tuple[str, Any]]:
        entries = root.get(section)
        if may_lack and entries in (None, {}):
            return []
        if not isinstance(entries, dict) or not entries:
            given = (
                "is missing"
                if entries is None
                else "is empty"
                if entries == {}
                else "must have names and what they are"
            )
            self._fault((section,), f"this section {given}; name at least one.")
            return []
        for name in entries:
            if not name.strip() or not name.isprintable() or len(name) > 200:
                self._fault((section, name), "a name must have printable characters, at most 200.")
        return list(entries.items())

    def _server(
        self,
        section: sections.ServerSection,
        models: Mapping[str, ModelConfig],
        deployments: Mapping[str, DeploymentConfig | None],
        source: Path | None,
    ) -> Config:
        at = ("server",)
        keys = [self._key(key, (*at, "api_keys", i)) for i, key in enumerate(section.api_keys)]
        if section.api_key_file is not None:
            lines = self._file(section.api_key_file, (*at, "api_key_file")).splitlines()
            keys += [Secret(line.strip()) for line in lines if line.strip() and not line.startswith("#")]
        return Config(
            models=MappingProxyType(dict(models)),
            deployments=MappingProxyType({name: each for name, each in deployments.items() if each is not None}),
            source=source,
            files=tuple(self._files),
            api_keys=tuple(keys),
            admin_keys=tuple(self._key(key, (*at, "admin_keys", i)) for i, key in enumerate(section.admin_keys)),
            host=section.host,
            port=section.port,
            ledger=self._ledger(section, at),
            key_store=None if section.key_store is None else self._folder / Path(section.key_store).expanduser(),
            drain_timeout_s=self._read(parse_duration, section.drain_timeout, (*at, "drain_timeout"), 30.0),
            keep_alive_s=self._read(parse_duration, section.keep_alive, (*at, "keep_alive"), 15.0),
            max_body_bytes=self._read(_bytes, section.max_body, (*at, "max_body"), 1),
        )

    def _ledger(self, section: sections.ServerSection, at: errors.Path) -> LedgerConfig | None:
        kept = section.ledger_retention
        retention_s = None if kept is None else self._read(parse_duration, kept, (*at, "ledger_retention"), 1.0)
        if section.ledger is None:
            if kept is not None:
                self._fault((*at, "ledger_retention"), "there is no ledger; say where with `ledger`, or remove it.")
            return None
        try:
            return ledger_place(section.ledger, self._folder, retention_s)
        except ValueError as error:
            self._fault((*at, "ledger"), f"{error}.")
            return None

    def _deployment(self, name: str, value: Any) -> DeploymentConfig | None:
        at = ("deployments", name)
        section = self._section(DeploymentSection, value, at)
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
            ca_file=None if section.ca_file is None else self._path(section.ca_file, (*at, "ca_file")),
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

    def _model(self, name: str, value: Any, defaults: Any) -> ModelConfig | None:
        at = ("models", name)
        section = self._section(ModelSection, _with_defaults(value, defaults), at)
        if section is None:
            return None
        if section.place is Place.CHEAPEST_WITHIN_SLO and section.slo is None:
            self._fault((*at, "slo"), "place: cheapest-within-slo needs one, such as slo: {ttft: 800ms, tpot: 50ms}.")
        tiers = [[entry] if isinstance(entry, str) else entry for entry in section.deployments]
        if all(isinstance(entry, str) for entry in section.deployments):
            tiers = [[str(entry) for entry in section.deployments]]
        for i, tier in enumerate(tiers):
            if not tier:
                self._fault((*at, "deployments", i), "this tier is empty; name a deployment.")
        return ModelConfig(
            name=name,
            tiers=tuple(map(tuple, tiers)),
            place=section.place,
            slo=None if section.slo is None else self._slo(section.slo, (*at, "slo")),
            timeouts=Timeouts() if section.timeouts is UNSET else self._timeouts(section.timeouts, (*at, "timeouts")),
            retry=Retry() if section.retry is UNSET else self._retry(section.retry, (*at, "retry")),
            hedge=None if section.hedge is None else self._hedge(section.hedge, tiers, (*at, "hedge")),
            fallbacks=Fallbacks(
                error=tuple(section.fallbacks.error),
                context_window=tuple(section.fallbacks.context_window),
                content_policy=tuple(section.fallbacks.content_policy),
            ),
            earlier=self._earlier(section.fallbacks.cached, (*at, "fallbacks", "cached")),
            overload=section.overload,
            limits=self._limits(section.limits, (*at, "limits")),
        )

    def _slo(self, section: sections.SloSection, at: errors.Path) -> Slo:
        return Slo(
            ttft_s=self._read(parse_duration, section.ttft, (*at, "ttft"), 1.0),
            tpot_s=self._read(parse_duration, section.tpot, (*at, "tpot"), 1.0),
            attainment=self._read(parse_share, section.attainment, (*at, "attainment"), 1.0),
        )

    def _timeouts(self, section: sections.TimeoutsSection, at: errors.Path) -> Timeouts:
        names = sections.TimeoutsSection.__struct_fields__
        given = {name: value for name in names if (value := getattr(section, name)) is not None}
        values = {f"{name}_s": self._read(parse_duration, value, (*at, name), 1.0) for name, value in given.items()}
        return Timeouts(**values)

    def _retry(self, section: sections.RetrySection, at: errors.Path) -> Retry:
        return Retry(
            attempts=section.attempts,
            budget=self._read(parse_share, section.budget, (*at, "budget"), 0.0),
            base_s=self._read(parse_duration, section.base, (*at, "base"), 1.0),
            max_s=self._read(parse_duration, section.max, (*at, "max"), 1.0),
        )

    def _earlier(self, section: sections.CachedSection | None, at: errors.Path) -> EarlierPolicy | None:
        if section is None:
            return None
        return EarlierPolicy(
            max_age_s=self._read(parse_duration, section.max_age, (*at, "max_age"), 1.0),
            memory_bytes=self._read(_bytes, section.memory, (*at, "memory"), 1),
            is_any=section.answers == "any",
        )

    def _hedge(self, section: sections.HedgeSection, tiers: list[list[str]], at: errors.Path) -> Hedge:
        if sum(map(len, tiers)) < 2:
            self._fault(at, "there is no second deployment to ask; name one in the model's deployments, or remove it.")
        at = (*at, "after")
        if is_percentile(section.after):
            return Hedge(quantile=self._read(parse_percentile, section.after, at, 0.95))
        return Hedge(after_s=self._read(parse_duration, section.after, at, 1.0))

    def _probe(self, section: DeploymentSection, facts: KindFacts, at: errors.Path) -> Probe:
        if section.health is UNSET:
            return Probe(path=facts.health)
        at = (*at, "health")
        return Probe(
            path=section.health.path,
            interval_s=self._read(parse_duration, section.health.interval, (*at, "interval"), 1.0),
            timeout_s=self._read(parse_duration, section.health.timeout, (*at, "timeout"), 1.0),
        )

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
            self._fault(at, message)
        return price or Price()

    def _written_price(self, price: sections.PriceSection, at: errors.Path) -> Price:
        cached = price.input if price.cached_input is None else price.cached_input
        return Price(
            input_per_mtok=self._read(parse_dollars, price.input, (*at, "input"), 0),
            cached_per_mtok=self._read(parse_dollars, cached, (*at, "cached_input"), 0),
            output_per_mtok=self._read(parse_dollars, price.output, (*at, "output"), 0),
            per_hour=self._read(parse_dollars, price.per_hour, (*at, "per_hour"), 0),
        )

    def _check_kind(self, section: DeploymentSection, facts: KindFacts, at: errors.Path) -> None:
        kind = section.kind
        if section.url is None and facts.needs_url:
            self._fault(
                (*at, "url"), f"a deployment of kind {kind.value} needs its url, such as http://10.0.0.5:8000/v1."
            )
        if kind is Kind.BEDROCK and section.region is None:
            self._fault((*at, "region"), "a deployment of kind bedrock needs its region, such as us-east-1.")
        if section.region is not None and kind is not Kind.BEDROCK:
            self._fault((*at, "region"), f"only kind bedrock has a region, and this is {kind.value}; remove it.")
        if section.engine and kind is not Kind.EMBEDDED:
            self._fault((*at, "engine"), f"only kind embedded has an engine here, and this is {kind.value}; remove it.")
        for name in ("url", "api_key", "api_key_file", "headers", "ca_file"):
            if kind is Kind.EMBEDDED and getattr(section, name):
                self._fault((*at, name), "an embedded engine is reached without the network; remove it.")

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
            self._fault(at, f"{shown!r} is no address; write http://HOST:PORT/v1 or https://HOST/v1.")
        elif parts.username is not None or parts.password is not None:
            self._fault(at, "a url must not have a user or password in it; use api_key or headers.")
        elif parts.query or parts.fragment:
            self._fault(at, "a url must end with its path: no '?' and no '#'.")
        return url.rstrip("/")

    def _api_key(self, section: DeploymentSection, at: errors.Path) -> Secret | None:
        if section.api_key is not None and section.api_key_file is not None:
            self._fault((*at, "api_key_file"), "api_key is given, too; keep one of them.")
        if section.api_key_file is not None:
            return self._key(self._file(section.api_key_file, (*at, "api_key_file")).strip(), (*at, "api_key_file"))
        return None if section.api_key is None else self._key(section.api_key, (*at, "api_key"))

    def _key(self, text: str, at: errors.Path) -> Secret:
        if not text or not text.isascii() or not text.isprintable() or " " in text:
            self._fault(at, "a key must have printable ASCII characters without spaces, and at least one.")
        return Secret(text)

    def _path(self, text: str, at: errors.Path) -> Path:
        path = self._folder / Path(text).expanduser()
        if not path.is_file():
            self._fault(at, f"'{path}' is no file.")
        self._files.append(path)
        return path

    def _file(self, text: str, at: errors.Path) -> str:
        path = self._path(text, at)
        try:
            return path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            if path.is_file():
                self._fault(at, f"'{path}' cannot be read: {error}.")
            return "-"

    # Reading and noting.

    def _section(self, kind: type[S], value: Any, at: errors.Path) -> S | None:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            self._fault(*explain(str(error), kind, at))
            return None

    def _read(self, parse: Callable[[Any], V], given: Any, at: errors.Path, otherwise: V) -> V:
        try:
            return parse(given)
        except ValueError as error:
            self._fault(at, f"{error}.")
            return otherwise

    def _fault(self, path: errors.Path, message: str) -> None:
        self.faults.append(Fault(self._tree.line(path), path, message))


def _with_defaults(value: Any, defaults: Any) -> Any:
    """A model's section with what it does not say taken from the defaults, key by key."""
    if not isinstance(value, dict) or not isinstance(defaults, dict):
        return value
    merged = dict(value)
    for name in ("timeouts", "retry"):
        own, general = value.get(name, {}), defaults.get(name)
        if isinstance(general, dict) and isinstance(own, dict):
            merged[name] = general | own
    return merged


def _bytes(given: str | int) -> int:
    return parse_byte_size(str(given))
