"""Starting the processes that have parts of a model, by the first one and on other machines. No torch here."""

import subprocess
import sys

from servery.engine.channel import encode_config
from servery.engine.config import EngineConfig
from servery.engine.ranks.meeting_place import MeetingPlace, encode_place

FOLLOWER_MODULE = "servery.engine.ranks.follower"


def start_follower(
    line: int, life: int, rank: int, place: MeetingPlace, config: EngineConfig
) -> "subprocess.Popen[bytes]":
    """Start process number `rank`; raises `OSError`.

    `line` is the descriptor of a connection to the first process, `life` one to read from that is closed when it is to end.
    """
    arguments = [str(line), str(life), str(rank), encode_place(place), encode_config(config)]
    return subprocess.Popen(  # noqa: S603 - ourselves
        [sys.executable, "-m", FOLLOWER_MODULE, *arguments],
        stdin=subprocess.DEVNULL,
        pass_fds=(line, life),
    )


def told_end(rank: int, pid: int, status: int) -> str:
    """What is said of one that ended unasked; `status` is negative for the signal that ended it."""
    return f"process {rank} of the model (pid {pid}) ended with status {status}."
