"""When models come into memory and leave it: the options of `servery serve`, and what they mean for each model."""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from servery.byte_size import format_byte_size
from servery.engine.memory import RESERVE_BYTES
from servery.engine.swap import is_in_memory
from servery.option_value import byte_size
from servery.server.option_error import OptionError
from servery.upstream.residence import PROCESS_ENDS, Stay
from servery.wire.errors import did_you_mean

FOREVER = "forever"
# The key of what counts for all models that are not named.
EVERY_OTHER = ""
_TIME = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|)", re.ASCII)
_UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def add_residence_options(verb: argparse.ArgumentParser) -> None:
    """Add what `ResidenceOptions` holds to a verb, in a group of its own."""
    add = verb.add_argument_group("models in memory").add_argument
    add("--load-on-demand", action="store_true", help="load no model at the start; the first request for one loads it")
    add(
        "--models-dir",
        type=Path,
        metavar="DIRECTORY",
        help="serve the checkpoints and .gguf files in DIRECTORY too, loaded by /v1/models/load, which also finds those "
        "that came later, or on demand",
    )
    add(
        "--keep-alive",
        action="append",
        default=[],
        metavar="[MODEL=]TIME",
        help="let models leave memory after this time without a request (300, 5m, 1h), or never (forever, the default); "
        "repeatable. The next request brings them back",
    )
    add(
        "--sleep-level",
        type=int,
        choices=(1, 2),
        help="how they leave it then: 1: their weights go to a file, 2: their process ends and they are loaded anew; "
        "2 is the default",
    )
    add(
        "--sleep-dir",
        type=Path,
        metavar="DIRECTORY",
        help="where the file with the weights of a model goes that sleeps at level 1; else /var/tmp",
    )
    add(
        "--memory",
        type=byte_size,
        metavar="SIZE",
        help="what all models may take together, such as 16GiB; those used longest ago leave it for one that does not fit",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidenceOptions:
    """`keep_alive_s` is by model, `EVERY_OTHER` for those not named; None there is forever.

    Without `on_demand` all models are loaded at the start. Raises `OptionError` for a value outside its range.
    """

    on_demand: bool = False
    keep_alive_s: Mapping[str, float | None] = field(default_factory=dict)
    sleep_level: int | None = None
    sleep_dir: Path | None = None
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.sleep_level is not None and not any(time_s is not None for time_s in self.keep_alive_s.values()):
            raise OptionError(
                "--sleep-level says how models leave memory when they are idle, and without --keep-alive none does; add "
                "it, such as --keep-alive 5m."
            )
        if self.memory_bytes is not None and self.memory_bytes <= RESERVE_BYTES:
            raise OptionError(
                f"--memory is {self.memory_bytes} bytes ({format_byte_size(self.memory_bytes)}); the process of a model "
                f"alone takes {format_byte_size(RESERVE_BYTES)}, and its weights and KV cache come on top."
            )
        if self.sleep_dir is not None:
            _check_folder(self.sleep_dir)

    @classmethod
    def of(cls, options: argparse.Namespace) -> "ResidenceOptions":
        """What was typed."""
        return cls(
            on_demand=options.load_on_demand,
            keep_alive_s=_keep_alives(options.keep_alive),
            sleep_level=options.sleep_level,
            sleep_dir=options.sleep_dir,
            memory_bytes=options.memory,
        )

    @property
    def makes_room(self) -> bool:
        """Whether an idle model goes for one that does not fit."""
        return self.on_demand or self.memory_bytes is not None

    def check(self, models: Sequence[str]) -> None:
        """Raise `OptionError` for a model that is not served."""
        for name in self.keep_alive_s:
            if name != EVERY_OTHER and name not in models:
                served = ", ".join(repr(each) for each in models)
                raise OptionError(
                    f"--keep-alive {name}=...: no model {name!r} is served, only {served}.{did_you_mean(name, models)}"
                )

    def stay(self, model: str, max_waiting: int) -> Stay:
        """What counts for one model, for which at most `max_waiting` requests may wait."""
        return Stay(
            keep_alive_s=self.keep_alive_s.get(model, self.keep_alive_s.get(EVERY_OTHER)),
            sleep_level=self.sleep_level or PROCESS_ENDS,
            on_demand=self.on_demand,
            max_waiting=max_waiting,
        )


def _keep_alives(arguments: Sequence[str]) -> Mapping[str, float | None]:
    times: dict[str, float | None] = {}
    for argument in arguments:
        model, separator, text = argument.rpartition("=")
        if separator and not model:
            raise OptionError(f"--keep-alive is {argument!r}; it must be TIME or MODEL=TIME.")
        time_s = _time(argument, text)
        if model in times and times[model] != time_s:
            raise OptionError(
                f"--keep-alive {argument}: there is another time for {model or 'all models'}; give one of them."
            )
        times[model] = time_s
    return times


def _time(argument: str, text: str) -> float | None:
    if text == FOREVER:
        return None
    match = _TIME.fullmatch(text)
    if match is None:
        raise OptionError(
            f"--keep-alive is {argument!r}; a time is a number of seconds (300), minutes (5m) or hours (1h), or "
            f"{FOREVER}; a model may stand before it: MODEL=TIME."
        )
    return float(match[1]) * _UNITS_S[match[2]]


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise OptionError(f"--sleep-dir is '{folder}', which is not a directory.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OptionError(f"--sleep-dir is '{folder}', where this user may write nothing.")
    if is_in_memory(folder):
        raise OptionError(f"--sleep-dir is '{folder}', which is in memory itself; name a folder on a disk.")
