"""Further names for what is served, so that clients which insist on a name of their own need not be changed.

Aliases are kept as what they stand for, by the alias; `*` is the alias of every name that is nobody's.
"""

from collections.abc import Collection, Mapping, Sequence

from servery.server.option_error import OptionError
from servery.wire.errors import did_you_mean, shown

EVERY_OTHER = "*"


def alias_target(targets: Mapping[str, str], models: Collection[str], name: str) -> str | None:
    """What `name`, by which nothing is served, stands for by `targets`; None if nothing.

    A name that begins with one of the served `models` and a colon means an adapter of that model; `*` does not stand for
    these, so that a misspelled adapter is never answered by its base.
    """
    if name in targets or name.rpartition(":")[0] in models:
        return targets.get(name)
    return targets.get(EVERY_OTHER)


def whole_names(targets: Mapping[str, str]) -> Mapping[str, str]:
    """The targets of the aliases that are names, without `*`."""
    return {alias: target for alias, target in targets.items() if alias != EVERY_OTHER}


def read_aliases(arguments: Sequence[str]) -> Mapping[str, str]:
    """The targets of `ALIAS=MODEL` arguments by their alias; raises `OptionError` for one that is none, or comes twice."""
    targets: dict[str, str] = {}
    for argument in arguments:
        alias, separator, target = argument.partition("=")
        if not (separator and alias and target):
            raise OptionError(f"--alias is {argument!r}; it must be ALIAS=MODEL, or '*=MODEL' for every other name.")
        if targets.setdefault(alias, target) != target:
            raise OptionError(f"--alias {alias} stands for {targets[alias]!r} and for {target!r}; give one of them.")
    return targets


def check_aliases(
    targets: Mapping[str, str], models: Collection[str], adapters: Collection[str], *, may_load: bool
) -> None:
    """Raise `OptionError` for an alias that hides a model or stands for nothing that is served.

    `adapters` are those loaded at the start, as `model:adapter`; with `may_load` others may come later.
    """
    served = [*models, *adapters]
    for alias, target in targets.items():
        if not alias.isprintable():
            raise OptionError(f"the alias {alias!r} has unprintable characters.")
        if alias in served:
            raise OptionError(
                f"--alias {shown(alias)}={shown(target)}: {alias!r} is served by that name; take another."
            )
        if target in served or (may_load and target.rpartition(":")[0] in models):
            continue
        names = ", ".join(repr(name) for name in served)
        hint = did_you_mean(target, served)
        raise OptionError(f"--alias {shown(alias)}={shown(target)}: {target!r} is not served, only {names}.{hint}")
