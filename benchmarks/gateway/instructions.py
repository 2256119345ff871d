"""Instructions per request and per stream event, counted by valgrind: a figure that no neighbour on the machine can change.

The gateway runs under `valgrind --tool=callgrind`; requests go through it one after the other, so that counts are nearly
the same every time, and counting begins when what is made once is made. What the gateway does by itself while it waits, as
it does for most of the time of a stream, is counted alone and taken off. What was counted before is told beside it.
"""

import http.client
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from benchmarks.gateway.processes import command_of, tree
from benchmarks.gateway.rig import EVENTS, Rig, request
from benchmarks.gateway.servery import SERVERY, write_configuration
from benchmarks.instructions import counted
from benchmarks.result import FOLDER

NAME = "gateway-instructions"
_GATEWAY, _UPSTREAM = 8941, 8942
_READY_S = 120.0
_GAP_US = 20_000  # under valgrind too each event comes alone


def count(cache: Path, requests: int) -> dict[str, float]:
    """Instructions of the gateway's process per request, stream and event of it, and per second without requests."""
    with tempfile.TemporaryDirectory() as place, Rig(cache / "rig", 1).upstream(_UPSTREAM, gap_us=_GAP_US):
        folder = Path(place)
        configuration = write_configuration(folder, port=_GATEWAY, upstream=_UPSTREAM)
        options = ["--tool=callgrind", f"--callgrind-out-file={folder}/out"]
        variables = {**os.environ, "PYTHONHASHSEED": "0"}
        command = ["valgrind", "--quiet", *options, *SERVERY, str(configuration)]
        with subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL) as gateway:  # noqa: S603
            try:
                _wait_ready()
                _send(20, is_stream=False)
                _send(3, is_stream=True)
                process = next(each for each in tree(gateway.pid) if "valgrind" in command_of(each))
                _order("--zero", process)
                seconds = [_send(requests, is_stream=False)]
                _order("--dump", process)
                seconds.append(_send(requests // 4, is_stream=True))
                _order("--dump", process)
                seconds.append(_wait(seconds[-1]))
                _order("--dump", process)
            finally:
                gateway.terminate()
                gateway.wait()
        counts = [sum(counted((folder / f"out.{at}").read_text().splitlines()).values()) for at in (1, 2, 3)]
    per_second = counts[2] / seconds[2]
    whole, streamed = (count - per_second * took_s for count, took_s in zip(counts[:2], seconds[:2], strict=True))
    per_request, per_stream = whole / requests, streamed / (requests // 4)
    per_event = (per_stream - per_request) / EVENTS
    return {"request": per_request, "stream": per_stream, "event": per_event, "second without requests": per_second}


def table(now: Mapping[str, float]) -> Table:
    """Thousands of instructions, and as a multiple of what it was."""
    before = _before()
    shown = Table("thousands of instructions", "", "over before")
    for name, number in now.items():
        was = before.get(name)
        shown.add_row(f"per {name}", f"{number / 1e3:.1f}", f"{number / was:.3f}" if was else "-")
    return shown


def is_possible() -> bool:
    """Whether there is a valgrind."""
    return shutil.which("valgrind") is not None


def _send(number: int, *, is_stream: bool) -> float:
    """Send so many, one after the other; the seconds that it took."""
    began_s = time.monotonic()
    sent = request(is_stream=is_stream, port=_GATEWAY)
    head, _, body = sent.partition(b"\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    connection = http.client.HTTPConnection("127.0.0.1", _GATEWAY, timeout=60)
    for _ in range(number):
        connection.request("POST", "/v1/chat/completions", body, fields)
        answer = connection.getresponse()
        if answer.status != 200 or not answer.read():
            raise RuntimeError(f"the gateway answered with status {answer.status}")
    connection.close()
    return time.monotonic() - began_s


def _wait(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def _wait_ready() -> None:
    until_s = time.monotonic() + _READY_S
    while time.monotonic() < until_s:
        try:
            _send(1, is_stream=False)
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"the gateway did not answer within {_READY_S:g} s")


def _order(order: str, process: int) -> None:
    subprocess.run(["callgrind_control", order, str(process)], capture_output=True, check=True)  # noqa: S603, S607


def _before() -> Mapping[str, float]:
    files = sorted(FOLDER.glob(f"{NAME}-*.json"))
    per: Mapping[str, float] = json.loads(files[-1].read_text())["per"] if files else {}
    return per
