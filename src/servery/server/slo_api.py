"""`GET /admin/slo`: how well each model keeps its SLO, over windows from five minutes to thirty days."""

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from servery.server.service import Exchange, Service
from servery.telemetry.slo import Count
from servery.telemetry.slo_watch import Counts

_GOOD, _MISSED = "servery_slo_window_good", "servery_slo_window_missed"


async def show(service: Service, exchange: Exchange) -> None:
    """Attainment, error budget and alerts of every model that has an SLO; those of all workers together."""
    await service.slo.refresh()
    others: list[Counts] = []
    if service.siblings is not None and service.slo.source == "memory":
        others = [counted(page) for page in await service.siblings.pages() if page]
    await exchange.reply.whole(msgspec.json.encode(service.slo.page(others)))


def counted(page: bytes) -> Counts:
    """What a page of metrics says of SLOs, by model and window."""
    lines = [line for line in page.decode().splitlines() if line.startswith((_GOOD, _MISSED))]
    found: dict[str, dict[str, Count]] = {}
    for family in text_string_to_metric_families("\n".join(lines)):
        for sample in family.samples:
            windows, window = found.setdefault(sample.labels["model_name"], {}), sample.labels["window"]
            before, value = windows.get(window, Count()), int(sample.value)
            is_good = sample.name == _GOOD
            windows[window] = Count(before.good + value * is_good, before.missed + value * (not is_good))
    return found
