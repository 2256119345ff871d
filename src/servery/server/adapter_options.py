"""The LoRA adapters on the command line of `servery serve`: which models they belong to, and what may come later."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from servery.engine.adapter_source import DEFAULT_MAX_RANK, AdapterSource
from servery.option_value import at_least
from servery.server.option_error import OptionError
from servery.wire.errors import did_you_mean

# Places for adapters where they can be loaded while the server runs and nobody said how many.
DEFAULT_PLACES = 8


def add_adapter_options(verb: argparse.ArgumentParser) -> None:
    """Add what `AdapterOptions` holds to a verb, in a group of its own."""
    add = verb.add_argument_group("LoRA adapters").add_argument
    add(
        "--lora",
        action="append",
        default=[],
        metavar="[MODEL:]NAME=DIRECTORY",
        help="load the adapter in DIRECTORY, asked for as MODEL:NAME; repeatable, MODEL may be left out with one model",
    )
    add(
        "--lora-dir",
        type=Path,
        metavar="DIRECTORY",
        help="let who has an admin key load and unload adapters that lie below DIRECTORY",
    )
    add(
        "--max-loras",
        type=at_least(1),
        metavar="N",
        help=f"most adapters of a model at a time; else {DEFAULT_PLACES} with --lora-dir, or as many as --lora names",
    )
    add("--max-lora-rank", type=at_least(1), default=DEFAULT_MAX_RANK, metavar="R", help="largest rank of an adapter")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AdapterOptions:
    """`named` are `[MODEL:]NAME=DIRECTORY`; clients may load what lies below `folder`. None of `max_loras`: decide."""

    named: tuple[str, ...] = ()
    folder: Path | None = None
    max_loras: int | None = None
    max_rank: int = DEFAULT_MAX_RANK

    @classmethod
    def of(cls, options: argparse.Namespace) -> "AdapterOptions":
        """What was typed."""
        return cls(
            named=tuple(options.lora),
            folder=options.lora_dir,
            max_loras=options.max_loras,
            max_rank=options.max_lora_rank,
        )

    def settings(self, models: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """For each of the served models the fields of its `EngineConfig`.

        Raises `OptionError` for an adapter of no model or no folder, `LoadError` for a name that cannot be one.
        """
        sources: dict[str, list[AdapterSource]] = {name: [] for name in models}
        for argument in self.named:
            model, source = _adapter(argument, models)
            sources[model].append(source)
        return {name: self._of_model(adapters) for name, adapters in sources.items()}

    def _of_model(self, adapters: Sequence[AdapterSource]) -> Mapping[str, Any]:
        places = None if self.folder is None else max(DEFAULT_PLACES, len(adapters))
        return {
            "adapters": tuple(adapters),
            "max_loras": places if self.max_loras is None else self.max_loras,
            "max_lora_rank": self.max_rank,
        }


def _adapter(argument: str, models: Sequence[str]) -> tuple[str, AdapterSource]:
    left, separator, place = argument.partition("=")
    if not separator or not left or not place:
        raise OptionError(f"--lora is {argument!r}; it must be NAME=DIRECTORY, or MODEL:NAME=DIRECTORY.")
    if not models:
        raise OptionError(f"--lora {argument}: no model is named that it could belong to; write servery serve MODEL.")
    model, _, name = left.rpartition(":")
    if not model and len(models) > 1:
        raise OptionError(
            f"--lora {argument} names no model and {len(models)} are served; write {models[0]}:{argument}."
        )
    if model and model not in models:
        served = ", ".join(repr(each) for each in models)
        raise OptionError(
            f"--lora {argument}: no model {model!r} is served, only {served}.{did_you_mean(model, models)}"
        )
    path = Path(place).expanduser()
    if not path.is_dir():
        raise OptionError(f"--lora {argument}: {place!r} is not a directory.")
    model = model or models[0]
    if f"{model}:{name}" in models:
        raise OptionError(f"--lora {argument}: a model is named {model}:{name} already; give one of them another name.")
    return model, AdapterSource(name, path)
