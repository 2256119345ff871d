"""A process with a part of a model: `python -m servery.engine.ranks.follower FD LIFE RANK PLACE CONFIG`. Started by `start_follower`."""

import logging
import os
import signal
import socket
import sys
import threading

from servery.engine.channel import decode_config
from servery.engine.config import EngineConfig
from servery.engine.device_batch import BatchShape, DeviceBatch
from servery.engine.dtype import dtype_name
from servery.engine.errors import LoadError, NotEnoughMemory
from servery.engine.kv import KVCache
from servery.engine.parallel.part import Ranks, ranks_of
from servery.engine.ranks.loading import LoadedPart, load_part
from servery.engine.ranks.meeting import part_company
from servery.engine.ranks.meeting_place import MeetingPlace, decode_place
from servery.engine.ranks.messages import Begin, Choose, End, Failed, Forward, Launch, Line, Loaded, Logits, arrays_of

log = logging.getLogger(__name__)


def follow(loaded: LoadedPart, cache: KVCache, line: Line) -> None:
    """Do what the first process says, until it says that this was all. Raises `ConnectionError` when it is gone."""
    decoder = loaded.model
    while True:
        task, values = line.task(pinned=decoder.device.type == "cuda")
        match task:
            case Forward(places=places, max_query_tokens=query_tokens, longest_context=longest):
                arrays = arrays_of(places, values)
                batch = DeviceBatch(arrays.on(decoder.device), BatchShape(query_tokens, longest), arrays)
                decoder.run(batch, cache)
            case Launch(places=places, shape=shape):
                loaded.launcher.launch(arrays_of(places, values), shape)
            case Choose(places=places):
                loaded.launcher.choose_edited(arrays_of(places, values))
            case Logits(rows=rows):
                decoder.join_logits(rows)
            case End():
                return
            case _:
                raise RuntimeError(f"nobody says {task!r} here.")


def main(line: Line, ranks: Ranks, place: MeetingPlace, config: EngineConfig) -> int:
    """Load, say so, follow; the exit status is 0 when told to end, 1 when the part cannot be loaded."""
    try:
        loaded = load_part(config, ranks)
    except LoadError as error:
        line.send(Failed(str(error), error.needed_bytes if isinstance(error, NotEnoughMemory) else None))
        return 1
    except (RuntimeError, MemoryError) as error:
        log.exception("loading part %d failed", ranks.rank)
        line.send(Failed(f"it could not be loaded: {error}"))
        return 1
    line.send(
        Loaded(loaded.plan.num_blocks, loaded.model.weight_bytes, loaded.read_bytes, dtype_name(loaded.model.dtype))
    )
    try:
        begin, _ = line.task()
        if isinstance(begin, Begin):
            follow(loaded, loaded.begin(begin.num_blocks, begin.max_model_len, place), line)
            part_company()
    except ConnectionError as error:
        log.warning("the first process is gone (%s); so is this one", error)
    return 0


def _end_with(life: int) -> None:
    """End this process when the first one is gone, whatever it is doing: it may wait in a sum that will never be."""
    os.read(life, 1)  # nobody writes: this returns when the other end is closed
    os._exit(0)


if __name__ == "__main__":
    logging.basicConfig(format=f"%(levelname)s %(name)s (rank {sys.argv[3]}): %(message)s", level=logging.INFO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # they go to all processes at once; the first one decides
    settings = decode_config(sys.argv[5])
    own = ranks_of(settings, int(sys.argv[3]))
    end = Line(socket.socket(fileno=int(sys.argv[1])))
    threading.Thread(target=_end_with, args=(int(sys.argv[2]),), daemon=True, name="life").start()
    sys.exit(main(end, own, decode_place(sys.argv[4]), settings))
