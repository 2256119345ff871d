import shutil
import socket
from pathlib import Path

import pytest

from benchmarks.gateway.contest import added_ms
from benchmarks.gateway.peers import PEERS
from benchmarks.gateway.rig import EVENTS, Load, Rig, request
from tests.ports import free_port

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the rig is compiled by gcc")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    return Rig(tmp_path_factory.mktemp("rig"), 0)


def test_the_load_counts_every_answer_and_every_event_of_it(rig: Rig) -> None:
    port = free_port()
    with rig.upstream(port, gap_us=100):
        whole = rig.run(Load(connections=2, warm_s=0, seconds=0.2), port, request(is_stream=False, port=port))
        paced = Load(is_stream=True, rate=50, connections=8, warm_s=0, seconds=0.4)
        streamed = rig.run(paced, port, request(is_stream=True, port=port))
    assert (whole["answered"] > 50, whole["bad"], whole["statuses"]["2xx"]) == (True, 0, whole["answered"])
    assert (streamed["bad"], streamed["cut"], streamed["unanswered"]) == (0, 0, 0)
    assert streamed["total_ms"]["count"] == streamed["lag_ms"]["count"] == 20
    assert streamed["total_ms"]["p50"] > streamed["first_ms"]["p50"] > 0
    assert streamed["events"] <= 20 * (EVENTS + 1)


def test_answers_that_do_not_come_are_not_forgotten(rig: Rig) -> None:
    """Nobody listens: an open loop goes on all the same, and says how much is unanswered."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        found = rig.run(Load(rate=40, connections=4, warm_s=0, seconds=0.2), port, request(is_stream=False, port=port))
    assert (found["answered"], found["unanswered"]) == (0, 8)


def test_what_is_added_is_told_only_where_both_are_known() -> None:
    assert added_ms({"total_ms": {"p50": 3.0}}, {"total_ms": {"p50": 1.0}}, "p50") == 2.0
    assert added_ms({"total_ms": {}}, {"total_ms": {"p50": 1.0}}, "p50") is None


def test_a_gateway_that_is_not_there_tells_how_it_is_had(tmp_path: Path) -> None:
    said = [peer.gateway(tmp_path, tmp_path, 1, 2) for peer in PEERS if peer.program]
    assert all(isinstance(each, str) and each.startswith("not installed: mkdir -p ") for each in said)
    assert len(said) == 6
