"""What `servery serve` was asked to do, validated when made."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from servery.config.types import Config, KeyConfig, LedgerConfig
from servery.engine.config import EngineConfig
from servery.engine.gguf.files import SUFFIX, is_gguf, model_name
from servery.engine.parsing.format import AUTO, find_formats
from servery.logs import FORMATS, TEXT
from servery.server.adapter_options import AdapterOptions
from servery.server.admin import is_loopback
from servery.server.aliases import check_aliases
from servery.server.auth import KeyRing
from servery.server.model_folder import models_in
from servery.server.option_error import OptionError
from servery.server.residence_options import ResidenceOptions
from servery.telemetry.ceilings import Ceilings

AMUSE_MODELS = {"amuse": "small", "amuse-draft": "draft", "amuse-base": "base"}
DEFAULT_MODEL = "amuse"
# What the command line calls them; the others can only be set in Python.
_FLAGS = {
    "request_timeout_s": "--request-timeout",
    "max_body_bytes": "--max-body",
    "max_file_bytes": "--max-file",
    "max_files_bytes": "--max-files",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model under the name that clients ask for, and how it writes tool calls and reasoning."""

    name: str
    engine: EngineConfig
    tool_format: str = AUTO
    reasoning_format: str = AUTO

    def __post_init__(self) -> None:
        try:
            find_formats((), self.tool_format, self.reasoning_format)
        except ValueError as error:
            raise OptionError(str(error)) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """The folder whose models may come while the server runs, each served as `template` is but for name and path."""

    path: Path
    template: ServedModel

    def models(self) -> Mapping[str, ServedModel]:
        """Those that lie there now; raises `OptionError`."""
        return {
            name: replace(self.template, name=name, engine=replace(self.template.engine, model=path))
            for name, path in models_in(self.path).items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Everything `servery.server.serve.run` needs.

    `port` 0 lets the system choose. Without `api_keys` anybody who reaches the address is served.
    `drain_timeout_s` is how long running answers may go on after SIGTERM; `request_timeout_s` how long one answer
    may take in all; `keep_alive_s` how long a stream may be silent before a comment is sent.
    Who has one of the `admin_keys` may load and unload models, and LoRA adapters that lie below `lora_dir`; see `admin`
    for when none is needed. `metrics_keys` do for reading the metrics alone. `aliases` are further names, by the name, for a model
    or `model:adapter`; `*` stands for all others. Models in `models_dir` are not loaded at the start.
    Who has one of the `viewer_keys` may look at the dashboard, and nothing else.
    `workers` processes share the port. MBU and MFU are shares of `ceilings`, None: of what is measured. Further keys are in `key_store`. Every exchange leaves a row in `ledger`. With
    `config` its models are served, of whose deployments `models` are those
    of this process. Raises `OptionError` for a value outside its range.
    """

    models: tuple[ServedModel, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    admin_keys: tuple[str, ...] = field(default=(), repr=False)
    metrics_keys: tuple[str, ...] = field(default=(), repr=False)
    viewer_keys: tuple[str, ...] = field(default=(), repr=False)
    drain_timeout_s: float = 30.0
    request_timeout_s: float = 600.0
    body_timeout_s: float = 30.0
    keep_alive_s: float = 15.0
    max_body_bytes: int = 4 << 20
    files: Path | None = None
    max_file_bytes: int = 200 << 20
    max_files_bytes: int = 10 << 30
    log_level: str = "info"
    log_format: str = TEXT
    lora_dir: Path | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    residence: ResidenceOptions = field(default_factory=ResidenceOptions)
    models_dir: ModelFolder | None = None
    ledger: LedgerConfig | None = None
    workers: int = 1
    ceilings: Ceilings | None = None
    key_store: Path | None = None
    config: Config | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.models and self.models_dir is None and self.config is None:
            raise OptionError("no model to serve; name one, or none at all for the embedded model 'amuse'.")
        _check_names(model.name for model in self.models)
        if not 0 <= self.port <= 65535:
            raise OptionError(f"--port is {self.port}; it must be between 0 and 65535 (0: the system chooses).")
        for name in (
            "request_timeout_s",
            "body_timeout_s",
            "keep_alive_s",
            "max_body_bytes",
            "max_file_bytes",
            "max_files_bytes",
        ):
            if not getattr(self, name) > 0:
                raise OptionError(f"{_FLAGS.get(name, name)} is {getattr(self, name)}; it must be greater than 0.")
        if not 1 <= self.workers <= 256:
            raise OptionError(f"--workers is {self.workers}; it must be between 1 and 256.")
        self._check_files()
        if not self.drain_timeout_s >= 0:
            raise OptionError(f"--drain-timeout is {self.drain_timeout_s}; it must be 0 or more.")
        for kind, keys in (
            ("an API", self.api_keys),
            ("an admin", self.admin_keys),
            ("a metrics", self.metrics_keys),
            ("a viewer", self.viewer_keys),
        ):
            if any(not key.strip() or not key.isascii() or not key.isprintable() for key in keys):
                raise OptionError(
                    f"{kind} key is empty or has characters that a header cannot carry; use printable ASCII."
                )
        if self.log_level.upper() not in logging.getLevelNamesMapping():
            raise OptionError(f"--log-level is {self.log_level!r}; choose debug, info, warning or error.")
        if self.log_format not in FORMATS:
            raise OptionError(f"--log-format is {self.log_format!r}; choose {' or '.join(FORMATS)}.")
        if self.lora_dir is not None:
            self._check_lora_dir(self.lora_dir)
        adapters = [f"{model.name}:{each.name}" for model in self.models for each in model.engine.adapters]
        names = [*(model.name for model in self.models), *self.found()]
        self.residence.check(names)
        check_aliases(self.aliases, names, adapters, may_load=self.lora_dir is not None)

    def found(self) -> Mapping[str, ServedModel]:
        """The models that lie in the folder of models now, but for those of names that are taken."""
        if self.models_dir is None:
            return {}
        taken = {model.name for model in self.models}
        return {name: model for name, model in self.models_dir.models().items() if name not in taken}

    def key_ring(self) -> KeyRing:
        """Who may ask for answers: whoever has a key, if keys are asked for."""
        return KeyRing(self.accepted_keys, self._named_keys)

    @property
    def accepted_keys(self) -> tuple[str, ...]:
        """The keys of whoever may ask for answers; none where nobody is asked for one."""
        is_asked = self.api_keys or self._named_keys or self.key_store is not None
        return (*self.api_keys, *self.admin_keys) if is_asked else ()

    @property
    def _named_keys(self) -> tuple[KeyConfig, ...]:
        return () if self.config is None else tuple(self.config.keys.values())

    def _check_files(self) -> None:
        """Raise `OptionError` for bounds of what is not kept, or that exclude each other."""
        defaults = {field.name: field.default for field in fields(self)}
        for name in ("max_file_bytes", "max_files_bytes"):
            if self.files is None and getattr(self, name) != defaults[name]:
                raise OptionError(f"{_FLAGS[name]} has no use without --files, which says where files are kept.")
        if self.max_files_bytes < self.max_file_bytes:
            raise OptionError(
                f"--max-files is {self.max_files_bytes} bytes, less than the {self.max_file_bytes} of --max-file: one "
                "file alone could be too much. Lower --max-file, or raise --max-files."
            )

    def _check_lora_dir(self, path: Path) -> None:
        if not path.is_dir():
            raise OptionError(f"--lora-dir is '{path}', which is not a directory.")
        if not self.admin_keys and (self.api_keys or not is_loopback(self.host)):
            raise OptionError(
                "--lora-dir lets who has an admin key load adapters, and there is none; add --admin-key, or leave it out."
            )


def _check_names(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if not name or not name.isprintable():
            raise OptionError(f"the model name {name!r} is empty or has unprintable characters.")
        if name in seen:
            raise OptionError(f"two models are named {name!r}; give one of them another name: NAME=PATH.")
        seen.add(name)


def served_models(
    arguments: Iterable[str],
    settings: Mapping[str, Any],
    formats: Mapping[str, str] | None = None,
    adapters: AdapterOptions | None = None,
    *,
    default: str | None = DEFAULT_MODEL,
) -> tuple[ServedModel, ...]:
    """The models that `arguments` name, each with an engine of these `settings` (the fields of `EngineConfig`).

    `formats` may name the models' `tool_format` and `reasoning_format`, `adapters` their LoRA adapters.

    An argument is an embedded model (`amuse`), the path of a checkpoint or GGUF file, or `NAME=PATH`.
    No argument means the `default`.
    Raises `OptionError` for what is no model, `LoadError` for settings outside their range.
    """
    named = [_named(argument) for argument in arguments] or [_named(name) for name in filter(None, [default])]
    of_model = (adapters or AdapterOptions()).settings([name for name, _ in named])
    return tuple(
        ServedModel(name=name, engine=EngineConfig(model=path, **settings, **of_model[name]), **(formats or {}))
        for name, path in named
    )


def model_folder(
    path: Path, settings: Mapping[str, Any], formats: Mapping[str, str], adapters: AdapterOptions
) -> ModelFolder:
    """The folder at `path`, for whose models these settings and formats count, and room for adapters."""
    of_model = replace(adapters, named=()).settings([path.name])[path.name]
    engine = EngineConfig(model=path, **settings, **of_model)
    return ModelFolder(path=path, template=ServedModel(name=path.name, engine=engine, **formats))


def _named(argument: str) -> tuple[str, Path]:
    name, separator, place = argument.partition("=")
    if not separator or "/" in name:
        name, place = "", argument
    if place in AMUSE_MODELS and not Path(place).is_dir():
        return name or place, _amuse_path(place)
    path = Path(place).expanduser()
    if path.is_file() and is_gguf(path):
        return name or model_name(path), path
    if not path.is_dir():
        known = ", ".join(_present_models()) or "none has weights here"
        raise OptionError(
            f"{place!r} is neither a directory with a checkpoint, nor a {SUFFIX} file, nor an embedded model ({known})."
        )
    return name or path.resolve().name, path


def _present_models() -> list[str]:
    """The embedded models whose weights are here."""
    from servery import amuse  # an optional part: only where needed, so that serving other models goes without it

    sizes = amuse.available()
    return [name for name, size in AMUSE_MODELS.items() if size in sizes]


def _amuse_path(model: str) -> Path:
    from servery import amuse

    if model not in _present_models():
        raise OptionError(
            f"{model} has no weights here; `make train-amuse` in a clone makes them, or name another model."
        )
    return amuse.path(AMUSE_MODELS[model])
