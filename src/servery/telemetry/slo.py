"""How well each model keeps its SLO: attainment and error budget over windows, and when the budget burns too fast.

The error budget is the share of exchanges that may miss: 1 - attainment. The burn rate of a window is the share that missed
in it over that: at 1 the budget of 30 days lasts 30 days, at 14.4 an hour takes 2 % of it. An alert fires while both a long
and a short window burn: the long one says that it matters, the short one that it is still so (Beyer et al., "The Site
Reliability Workbook", 2018, chapter 5). Pure.
"""

from collections.abc import Mapping, Sequence

import msgspec

from servery.config.types import Slo

WINDOWS_S: Mapping[str, int] = {"5m": 300, "30m": 1_800, "1h": 3_600, "6h": 21_600, "3d": 259_200, "30d": 2_592_000}
BUDGET_WINDOW = "30d"
# Fewer misses than these in the long window wake nobody: of ten exchanges in a night one miss would be a catastrophe.
LEAST_MISSES = 10
_LEAST_BUDGET = 1e-6  # of an SLO that allows no miss at all


class Count(msgspec.Struct, frozen=True):
    """Exchanges of a window that were judged by their model's SLO."""

    good: int = 0
    missed: int = 0

    @property
    def attainment(self) -> float | None:
        """The share that kept it; None of nothing."""
        total = self.good + self.missed
        return self.good / total if total else None

    def burn_rate(self, slo: Slo) -> float | None:
        """How fast the error budget goes; None of nothing."""
        attained = self.attainment
        return None if attained is None else (1.0 - attained) / _budget(slo)


class AlertRule(msgspec.Struct, frozen=True):
    """Fires while both windows burn faster than `threshold`."""

    severity: str
    long: str
    short: str
    threshold: float


# 2 % of the budget in an hour, 5 % in six hours, 10 % in three days.
ALERT_RULES = (
    AlertRule("page", "1h", "5m", 14.4),
    AlertRule("page", "6h", "30m", 6.0),
    AlertRule("ticket", "3d", "6h", 1.0),
)


class SloTerms(msgspec.Struct, frozen=True):
    """What was promised."""

    ttft_s: float
    tpot_s: float
    attainment: float


class WindowReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it in one window; None where nothing was judged."""

    window: str
    seconds: int
    good: int
    missed: int
    attainment: float | None
    burn_rate: float | None


class BudgetReport(msgspec.Struct, frozen=True, kw_only=True):
    """Misses that the window's exchanges allow, those that there were, and the share of the budget that is left."""

    window: str
    allowed: float
    spent: int
    remaining: float | None


class AlertReport(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a rule fires, and why."""

    severity: str
    long: str
    short: str
    threshold: float
    long_burn_rate: float | None
    short_burn_rate: float | None
    is_firing: bool


class SloReport(msgspec.Struct, frozen=True, kw_only=True):
    """One model's."""

    model: str
    slo: SloTerms
    windows: Sequence[WindowReport]
    error_budget: BudgetReport
    alerts: Sequence[AlertReport]


def report(model: str, slo: Slo, counts: Mapping[str, Count]) -> SloReport:
    """What the counts of the windows say; a window that is not among them had nothing."""
    whole = counts.get(BUDGET_WINDOW, Count())
    allowed = (whole.good + whole.missed) * _budget(slo)
    return SloReport(
        model=model,
        slo=SloTerms(slo.ttft_s, slo.tpot_s, slo.attainment),
        windows=[_window(name, slo, counts.get(name, Count())) for name in WINDOWS_S],
        error_budget=BudgetReport(
            window=BUDGET_WINDOW,
            allowed=allowed,
            spent=whole.missed,
            remaining=1.0 - whole.missed / allowed if allowed else None,
        ),
        alerts=[_alert(rule, slo, counts) for rule in ALERT_RULES],
    )


def _budget(slo: Slo) -> float:
    return max(1.0 - slo.attainment, _LEAST_BUDGET)


def _window(name: str, slo: Slo, count: Count) -> WindowReport:
    return WindowReport(
        window=name,
        seconds=WINDOWS_S[name],
        good=count.good,
        missed=count.missed,
        attainment=count.attainment,
        burn_rate=count.burn_rate(slo),
    )


def _alert(rule: AlertRule, slo: Slo, counts: Mapping[str, Count]) -> AlertReport:
    long, short = counts.get(rule.long, Count()), counts.get(rule.short, Count())
    rates = long.burn_rate(slo), short.burn_rate(slo)
    is_burning = all(rate is not None and rate > rule.threshold for rate in rates)
    return AlertReport(
        severity=rule.severity,
        long=rule.long,
        short=rule.short,
        threshold=rule.threshold,
        long_burn_rate=rates[0],
        short_burn_rate=rates[1],
        is_firing=is_burning and long.missed >= LEAST_MISSES,
    )
