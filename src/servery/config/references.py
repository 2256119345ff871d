"""What must hold between sections: every name that is used is defined, and fallbacks come to an end."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields

from servery.config.errors import Path
from servery.config.types import Fallbacks, ModelConfig
from servery.config.validation import did_you_mean

_KINDS = tuple(field.name for field in fields(Fallbacks))
Broken = tuple[Path, str]


def broken_references(
    models: Mapping[str, ModelConfig], deployments: Iterable[str], named: Collection[str]
) -> Iterator[Broken]:
    """Where a name means nothing, or too much, and what to tell of it.

    `named` are all models of the file, of which `models` are those that could be read.
    """
    deployments = list(deployments)
    for model in models.values():
        yield from _of_deployments(model, deployments)
        yield from _of_fallbacks(model, models, named)
    used = {name for model in models.values() for name in model.deployments}
    for name in deployments:
        if name not in used and len(models) == len(named):  # a model that could not be read may be the one
            yield ("deployments", name), "no model runs here; name it in a model's deployments, or remove it."
    for kind in _KINDS:
        yield from _circles(models, kind)


def _of_deployments(model: ModelConfig, deployments: Iterable[str]) -> Iterator[Broken]:
    at = ("models", model.name, "deployments")
    for name, times in Counter(model.deployments).items():
        if name not in deployments:
            yield at, f"there is no deployment '{name}'.{did_you_mean(name, deployments)}"
        if times > 1:
            yield at, f"'{name}' is named {times} times; once is enough."


def _of_fallbacks(model: ModelConfig, models: Mapping[str, ModelConfig], named: Collection[str]) -> Iterator[Broken]:
    for kind in _KINDS:
        for name in getattr(model.fallbacks, kind):
            if name not in named:
                yield (
                    ("models", model.name, "fallbacks", kind),
                    f"there is no model '{name}'.{did_you_mean(name, models)}",
                )


def _circles(models: Mapping[str, ModelConfig], kind: str) -> Iterator[Broken]:
    """Each circle of fallbacks of this kind, once: one fault alone would lead around it.

    Of several kinds a circle is none: the small model has what is too long answered by the large one, and stands in for
    it while it is down.
    """

    def following(name: str) -> Sequence[str]:
        return getattr(models[name].fallbacks, kind) if name in models else ()

    reported: set[frozenset[str]] = set()
    for start in models:
        circle = _circle(start, following)
        if circle and frozenset(circle) not in reported:
            reported.add(frozenset(circle))
            message = f"these fallbacks go in a circle: {' -> '.join([*circle, start])}; take one of them out."
            yield ("models", start, "fallbacks", kind), message


def _circle(start: str, following: Callable[[str], Sequence[str]]) -> list[str]:
    """A way from `start` back to it, empty if there is none."""
    ways, seen = [[start]], set[str]()
    while ways:
        way = ways.pop()
        for name in following(way[-1]):
            if name == start:
                return way
            if name not in seen:
                seen.add(name)
                ways.append([*way, name])
    return []
