"""The sections of a model and of what holds for all of them."""

from collections.abc import Mapping
from typing import Any

from msgspec import UNSET

from servery.config import errors, sections
from servery.config.reader import Reader
from servery.config.sections import ModelSection
from servery.config.types import EarlierPolicy, Fallbacks, Hedge, ModelConfig, Overload, Place, Retry, Slo, Timeouts
from servery.config.units import is_percentile, parse_duration, parse_percentile, parse_share


class ModelReader:
    """Reads models."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def defaults(self, root: Mapping[str, Any]) -> Any:
        """The section as it was written, empty when something is wrong with it: that is told once, not for each model."""
        before = self._reader.noted
        section = self._reader.section(sections.DefaultsSection, root.get("defaults", {}), ("defaults",))
        if section is not None:
            self._timeouts(section.timeouts, ("defaults", "timeouts"))
            self._check_total(root.get("defaults"), ("defaults", "timeouts"))
            self._retry(section.retry, ("defaults", "retry"))
        return root.get("defaults", {}) if self._reader.noted == before else {}

    def model(self, name: str, value: Any, defaults: Any) -> ModelConfig | None:
        """None, and a fault, when the value is no such section."""
        at = ("models", name)
        section = self._reader.section(ModelSection, _with_defaults(value, defaults), at)
        if section is None:
            return None
        if section.place is Place.CHEAPEST_WITHIN_SLO and section.slo is None:
            self._reader.fault(
                (*at, "slo"), "place: cheapest-within-slo needs one, such as slo: {ttft: 800ms, tpot: 50ms}."
            )
        if section.place is not Place.CHEAPEST_WITHIN_SLO and section.overload is not Overload.BEST_EFFORT:
            self._reader.fault(
                (*at, "overload"), "only place: cheapest-within-slo predicts an overload; choose that, or remove it."
            )
        self._check_total(value, (*at, "timeouts"))
        tiers = [[entry] if isinstance(entry, str) else entry for entry in section.deployments]
        if all(isinstance(entry, str) for entry in section.deployments):
            tiers = [[str(entry) for entry in section.deployments]]
        for i, tier in enumerate(tiers):
            if not tier:
                self._reader.fault((*at, "deployments", i), "this tier is empty; name a deployment.")
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
            limits=self._reader.limits(section.limits, (*at, "limits")),
        )

    def _slo(self, section: sections.SloSection, at: errors.Path) -> Slo:
        return Slo(
            ttft_s=self._reader.read(parse_duration, section.ttft, (*at, "ttft"), 1.0),
            tpot_s=self._reader.read(parse_duration, section.tpot, (*at, "tpot"), 1.0),
            attainment=self._reader.read(parse_share, section.attainment, (*at, "attainment"), 1.0),
        )

    def _timeouts(self, section: sections.TimeoutsSection, at: errors.Path) -> Timeouts:
        names = sections.TimeoutsSection.__struct_fields__
        given = {name: value for name in names if (value := getattr(section, name)) is not None}
        values = {
            f"{name}_s": self._reader.read(parse_duration, value, (*at, name), 1.0) for name, value in given.items()
        }
        return Timeouts(**values)

    def _check_total(self, section: Any, at: errors.Path) -> None:
        """A phase that is written beside `total` must fit into it; one that comes from elsewhere is cut short by it."""
        given = (section or {}).get("timeouts") or {}
        times = {name: _seconds(given[name]) for name in sections.TimeoutsSection.__struct_fields__ if name in given}
        total_s = times.pop("total", None)
        for name, seconds in times.items():
            if total_s is not None and seconds is not None and seconds > total_s:
                self._reader.fault(
                    (*at, name), f"{given[name]} is longer than total, {given['total']}; raise total, or lower it."
                )

    def _retry(self, section: sections.RetrySection, at: errors.Path) -> Retry:
        return Retry(
            attempts=section.attempts,
            budget=self._reader.read(parse_share, section.budget, (*at, "budget"), 0.0),
            base_s=self._reader.read(parse_duration, section.base, (*at, "base"), 1.0),
            max_s=self._reader.read(parse_duration, section.max, (*at, "max"), 1.0),
        )

    def _earlier(self, section: sections.CachedSection | None, at: errors.Path) -> EarlierPolicy | None:
        if section is None:
            return None
        return EarlierPolicy(
            max_age_s=self._reader.read(parse_duration, section.max_age, (*at, "max_age"), 1.0),
            memory_bytes=self._reader.size(section.memory, (*at, "memory")),
            is_any=section.answers == "any",
        )

    def _hedge(self, section: sections.HedgeSection, tiers: list[list[str]], at: errors.Path) -> Hedge:
        if sum(map(len, tiers)) < 2:
            self._reader.fault(
                at, "there is no second deployment to ask; name one in the model's deployments, or remove it."
            )
        at = (*at, "after")
        if is_percentile(section.after):
            return Hedge(quantile=self._reader.read(parse_percentile, section.after, at, 0.95))
        return Hedge(after_s=self._reader.read(parse_duration, section.after, at, 1.0))


def _seconds(given: object) -> float | None:
    """None for what is no time: that is told elsewhere."""
    try:
        return parse_duration(given)
    except ValueError:
        return None


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
