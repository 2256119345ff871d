"""A parsed file becomes a `Config`: each section on its own, then what must hold between them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from servery.config import errors, sections
from servery.config.access_reader import AccessReader
from servery.config.catalog import Catalog
from servery.config.deployment_reader import DeploymentReader, EngineCheck
from servery.config.errors import Fault
from servery.config.ledger_place import ledger_place
from servery.config.model_reader import ModelReader
from servery.config.reader import Reader
from servery.config.references import broken_references
from servery.config.secret import Secret
from servery.config.telemetry_reader import read_telemetry
from servery.config.transport import checked_host
from servery.config.tree import Tree
from servery.config.types import Config, DeploymentConfig, KeyConfig, LedgerConfig, ModelConfig
from servery.config.units import parse_duration
from servery.config.validation import did_you_mean


class Builder:
    """Reads a whole tree; what is wrong is noted in `faults`, and reading goes on."""

    def __init__(self, tree: Tree, folder: Path, catalog: Catalog, check_engine: EngineCheck | None = None) -> None:
        """Relative paths in the file are below `folder`."""
        self._reader = Reader(tree, folder)
        self._root = tree.value
        self._deployments = DeploymentReader(self._reader, catalog, check_engine)
        self._models = ModelReader(self._reader)

    @property
    def faults(self) -> list[Fault]:
        """What was wrong so far."""
        return self._reader.faults

    def config(self, source: Path | None) -> Config | None:
        """The configuration, None when something is wrong with it."""
        root = self._root
        if not isinstance(root, dict):
            if not self.faults:
                self._reader.fault(
                    (), "the file must have sections: deployments and models, and if wanted server, defaults."
                )
            return None
        self._check_top(root)
        server = self._reader.section(sections.ServerSection, root.get("server", {}), ("server",))
        deployments = {
            name: self._deployments.deployment(name, value) for name, value in self._named(root, "deployments")
        }
        defaults = self._models.defaults(root)
        models = {name: self._models.model(name, value, defaults) for name, value in self._named(root, "models")}
        known = {name: model for name, model in models.items() if model is not None}
        for path, message in broken_references(known, deployments, named=set(models)):
            self._reader.fault(path, message)
        if server is None:
            return None
        access = self._access(root, known) | {"telemetry": read_telemetry(self._reader, root.get("telemetry"))}
        config = self._server(server, known, deployments, source, access)
        return None if self.faults else config

    def _check_top(self, root: Mapping[str, Any]) -> None:
        names = sections.FileSections.__struct_fields__
        for name in root:
            if name not in names:
                self._reader.fault((name,), f"there is no such section.{did_you_mean(name, names)}")

    def _access(self, root: Mapping[str, Any], models: Mapping[str, ModelConfig]) -> dict[str, Any]:
        """Who may ask for what, and how much: fields of `Config`."""
        reader = AccessReader(self._reader, models)
        keys = {name: reader.key(name, value) for name, value in self._named(root, "keys", may_lack=True)}
        self._check_apart(keys.values())
        owners = {name: reader.owner(name, value) for name, value in self._named(root, "owners", may_lack=True)}
        return {
            "keys": MappingProxyType({name: key for name, key in keys.items() if key is not None}),
            "owners": MappingProxyType({name: limits for name, limits in owners.items() if limits is not None}),
            "limits": reader.limiting(root.get("limits", {})),
        }

    def _check_apart(self, keys: Iterable[KeyConfig | None]) -> None:
        """A digest in two entries would be whichever comes last, and revoked in neither by removing one."""
        seen: dict[bytes, str] = {}
        for key in filter(None, keys):
            for digest in key.digests:
                if digest and seen.setdefault(digest, key.name) != key.name:
                    self._reader.fault(
                        ("keys", key.name, "sha256"),
                        f"'{seen[digest]}' has the same one; make another key for one of them.",
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
            self._reader.fault((section,), f"this section {given}; name at least one.")
            return []
        for name in entries:
            if not name.strip() or not name.isprintable() or len(name) > 200:
                self._reader.fault((section, name), "a name must have printable characters, at most 200.")
        return list(entries.items())

    def _server(
        self,
        section: sections.ServerSection,
        models: Mapping[str, ModelConfig],
        deployments: Mapping[str, DeploymentConfig | None],
        source: Path | None,
        access: dict[str, Any],
    ) -> Config:
        at = ("server",)

        def written(name: str) -> list[Secret]:
            return [self._reader.key(key, (*at, name, i)) for i, key in enumerate(getattr(section, name))]

        ledger, key_store = self._ledger(section, at), self._key_store(section, at)
        if ledger is not None and key_store is not None and ledger.path == key_store:
            self._reader.fault((*at, "key_store"), "the ledger is in this file; name another one.")
        keys = written("api_keys")
        if section.api_key_file is not None:
            lines = self._reader.file(section.api_key_file, (*at, "api_key_file")).splitlines()
            at_file = (*at, "api_key_file")
            keys += [
                self._reader.key(line.strip(), at_file) for line in lines if line.strip() and not line.startswith("#")
            ]
        return Config(
            models=MappingProxyType(dict(models)),
            deployments=MappingProxyType({name: each for name, each in deployments.items() if each is not None}),
            source=source,
            files=tuple(self._reader.files),
            api_keys=tuple(keys),
            admin_keys=tuple(written("admin_keys")),
            metrics_keys=tuple(written("metrics_keys")),
            viewer_keys=tuple(written("viewer_keys")),
            host=self._reader.read(checked_host, section.host, (*at, "host"), "127.0.0.1"),
            port=section.port,
            ledger=ledger,
            key_store=key_store,
            drain_timeout_s=self._reader.read(parse_duration, section.drain_timeout, (*at, "drain_timeout"), 30.0),
            keep_alive_s=self._reader.read(parse_duration, section.keep_alive, (*at, "keep_alive"), 15.0),
            max_body_bytes=self._reader.size(section.max_body, (*at, "max_body")),
            **access,
        )

    def _ledger(self, section: sections.ServerSection, at: errors.Path) -> LedgerConfig | None:
        kept = section.ledger_retention
        retention_s = None if kept is None else self._reader.read(parse_duration, kept, (*at, "ledger_retention"), 1.0)
        if section.ledger is None:
            if kept is not None:
                self._reader.fault(
                    (*at, "ledger_retention"), "there is no ledger; say where with `ledger`, or remove it."
                )
            return None
        try:
            place = ledger_place(section.ledger, self._reader.folder, retention_s)
        except ValueError as error:
            self._reader.fault((*at, "ledger"), f"{error}.")
            return None
        self._check_no_folder(place.path, (*at, "ledger"))
        return place

    def _key_store(self, section: sections.ServerSection, at: errors.Path) -> Path | None:
        if section.key_store is None:
            return None
        path = self._reader.folder / Path(section.key_store).expanduser()
        self._check_no_folder(path, (*at, "key_store"))
        return path

    def _check_no_folder(self, path: Path | None, at: errors.Path) -> None:
        if path is not None and path.is_dir():
            self._reader.fault(at, f"'{path}' is a folder; name a file in it.")
