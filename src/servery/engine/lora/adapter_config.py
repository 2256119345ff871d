"""adapter_config.json as PEFT writes it: which modules are adapted, with which rank and scale. No torch."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servery.engine.adapter_source import CONFIG_FILE
from servery.engine.errors import LoadError
from servery.engine.json_fields import JsonFields

# What changes more than `W + scale * B A`, and what can be done about it.
SERVE_MERGED = "merge the adapter into its base (PEFT's merge_and_unload) and serve the result as a model"
_RETRAIN = "train the adapter without it"
_REFUSED = {
    "use_dora": f"DoRA is not supported; {SERVE_MERGED}",
    "modules_to_save": f"modules that were trained whole are not supported; {SERVE_MERGED}",
    "trainable_token_indices": f"trained token embeddings are not supported; {SERVE_MERGED}",
    "lora_bias": f"a bias on B is not supported; {SERVE_MERGED}",
    "fan_in_fan_out": f"transposed weights are not supported; {SERVE_MERGED}",
    "layer_replication": f"replicated layers are not supported; {SERVE_MERGED}",
    "target_parameters": f"adapted parameters that are no linear layers, such as fused experts, are not supported; {SERVE_MERGED}",
    "alora_invocation_tokens": f"activated LoRA is not supported; {_RETRAIN}",
    "use_qalora": f"QALoRA is not supported; {_RETRAIN}",
    "use_bdlora": f"block-diagonal LoRA is not supported; {SERVE_MERGED}",
    "arrow_config": f"Arrow routing is not supported; {_RETRAIN}",
    "kasa_config": f"KaSA is not supported; {SERVE_MERGED}",
    "monteclora_config": f"MonteCLoRA is not supported; {_RETRAIN}",
}
# These start from changed base weights: over the original base the stored matrices mean something else.
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Patterns stand in a file that somebody else may have written.
_MAX_PATTERN_CHARS = 2_000

Modules = str | tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """The fields that decide what an adapter computes, with PEFT's meaning.

    `targets` and `excluded` are names of modules, or ends of them, or one regular expression; "all-linear" means every
    linear layer but the head. `ranks` and `alphas` map patterns to what holds in place of `rank` and `alpha`.
    """

    path: Path
    rank: int
    alpha: float
    is_rank_stabilized: bool
    targets: Modules
    excluded: Modules = ()
    layers: frozenset[int] | None = None
    layers_patterns: tuple[str, ...] = ()
    ranks: Mapping[str, float] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> "AdapterConfig":
        """Read it; raises `LoadError` naming file, field and what to do when it is damaged or asks for too much."""
        fields = _fields(directory)
        _refuse_unsupported(fields)
        return cls(
            path=fields.path,
            rank=fields.count("r"),
            alpha=fields.number("lora_alpha"),
            is_rank_stabilized=fields.flag("use_rslora"),
            targets=_modules(fields, "target_modules"),
            excluded=_modules(fields, "exclude_modules", ()),
            layers=_layers(fields),
            layers_patterns=_names(fields, "layers_pattern"),
            ranks=_patterns(fields, "rank_pattern", whole=True),
            alphas=_patterns(fields, "alpha_pattern", whole=False),
        )

    def rank_of(self, module: str) -> int:
        """The rank of a module's matrices."""
        return int(_by_pattern(self.ranks, module, self.rank, self.path))

    def scale_of(self, module: str) -> float:
        """What B A is multiplied by: alpha / rank, or alpha / sqrt(rank) where it is rank-stabilized (2312.03732)."""
        alpha, rank = _by_pattern(self.alphas, module, self.alpha, self.path), self.rank_of(module)
        return alpha / math.sqrt(rank) if self.is_rank_stabilized else alpha / rank

    def is_target(self, module: str) -> bool:
        """Whether the adapter has matrices for a linear layer of the model."""
        return self.why_not(module) is None

    def why_not(self, module: str) -> str | None:
        """The field by which a linear layer of the model has no matrices; None if it has."""
        if self.excluded and _is_among(self.excluded, module, self.path):
            return "exclude_modules"
        if isinstance(self.targets, str) and self.targets.lower() == "all-linear":
            return None
        if not _is_among(self.targets, module, self.path):
            return "target_modules"
        if isinstance(self.targets, str) or self.layers is None or self._layer_of(module) in self.layers:
            return None
        return "layers_to_transform"

    def _layer_of(self, module: str) -> int | None:
        for pattern in self.layers_patterns or (r"[^.]*",):
            found = _match(rf"(?:^|.*?\.)(?:{pattern})\.(?P<layer>\d+)\.", module, self.path)
            if found is not None:
                return int(found["layer"])
        return None


def _fields(directory: Path) -> JsonFields:
    if not directory.is_dir():
        raise LoadError(f"{directory} is not a folder; give one with {CONFIG_FILE} in it.")
    if not (directory / CONFIG_FILE).exists():
        raise LoadError(f"{directory} has no {CONFIG_FILE}; give the folder that PEFT's save_pretrained wrote.")
    return JsonFields.read(directory / CONFIG_FILE)


def _refuse_unsupported(fields: JsonFields) -> None:
    if fields.raw("peft_type") != "LORA":
        raise fields.error("peft_type", "only LORA is supported")
    if fields.raw("bias") not in (None, "none"):
        raise fields.error("bias", f"trained biases are not supported; {SERVE_MERGED}")
    for name, rule in _REFUSED.items():
        if fields.raw(name) not in (None, False, [], {}):
            raise fields.error(name, rule)
    start = fields.raw("init_lora_weights")
    if isinstance(start, str) and start.startswith(_CHANGED_BASE):
        rule = "it began with changed base weights; save it with path_initial_model_for_weight_conversion"
        raise fields.error("init_lora_weights", rule)


def _modules(fields: JsonFields, name: str, default: Modules | None = None) -> Modules:
    value = fields.raw(name)
    if value is None and default is not None:
        return default
    if isinstance(value, str) and 0 < len(value) <= _MAX_PATTERN_CHARS:
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value) and (value or default is not None):
        return tuple(value)
    raise fields.error(name, f"it must be a list of names, or a pattern of at most {_MAX_PATTERN_CHARS} characters")


def _names(fields: JsonFields, name: str) -> tuple[str, ...]:
    value = _modules(fields, name, ())
    return (value,) if isinstance(value, str) else value


def _layers(fields: JsonFields) -> frozenset[int] | None:
    """The layers that are adapted, None for all: an empty list means all as well."""
    value = fields.raw("layers_to_transform")
    listed = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(layer, int) and not isinstance(layer, bool) for layer in listed):
        raise fields.error("layers_to_transform", "it must be the number of a layer or a list of them")
    return frozenset(listed) or None


def _patterns(fields: JsonFields, name: str, *, whole: bool) -> Mapping[str, float]:
    inner = fields.inner(name)
    value = fields.raw(name)
    if inner is None or not isinstance(value, dict):
        return {}
    if any(len(pattern) > _MAX_PATTERN_CHARS for pattern in value):
        raise fields.error(name, f"a pattern has at most {_MAX_PATTERN_CHARS} characters")
    return {pattern: inner.count(pattern) if whole else inner.number(pattern) for pattern in value}


def _by_pattern(values: Mapping[str, float], module: str, default: float, path: Path) -> float:
    """The value of the first pattern that the module, or the end of its name after a dot, matches."""
    matching: Iterable[float] = (
        value for pattern, value in values.items() if _match(rf"(.*\.)?({pattern})$", module, path)
    )
    return next(iter(matching), default)


def _is_among(modules: Modules, module: str, path: Path) -> bool:
    if isinstance(modules, str):
        return _match(rf"(?:{modules})\Z", module, path) is not None
    return any(module == name or module.endswith(f".{name}") for name in modules)


def _match(pattern: str, module: str, path: Path) -> "re.Match[str] | None":
    try:
        return re.match(pattern, module)
    except (re.error, OverflowError, RecursionError) as error:
        shown: Any = pattern if len(pattern) <= 80 else f"{pattern[:77]}..."
        raise LoadError(f"{path}: {shown!r} is no regular expression: {error}.") from error
