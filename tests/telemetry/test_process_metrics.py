"""What the process holds is among the metrics, under the names that every dashboard knows."""

import asyncio
import re

from servery.telemetry.metrics import Metrics


def test_the_process_and_the_tasks_of_its_loop_are_reported() -> None:
    async def while_one_waits() -> tuple[bytes, bytes]:
        metrics, end = Metrics(), asyncio.Event()
        before = metrics.render()
        waiting = asyncio.create_task(end.wait())
        after = metrics.render()
        end.set()
        await waiting
        return before, after

    before, after = asyncio.run(while_one_waits())
    assert _value(after, "process_resident_memory_bytes") > 1 << 20
    assert _value(after, "process_open_fds") > 2
    assert (_value(before, "servery_event_loop_tasks"), _value(after, "servery_event_loop_tasks")) == (1, 2)


def test_without_a_loop_there_are_no_tasks() -> None:
    assert _value(Metrics().render(), "servery_event_loop_tasks") == 0


def _value(text: bytes, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", text.decode(), re.MULTILINE)
    assert found is not None, f"no {name}"
    return float(found[1])
