"""Processes of one model as threads of this one: sums and hand-overs in memory, everything else as it is."""

import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import torch
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.loader import LoadTarget, build_decoder
from servery.engine.parallel.part import Part, Ranks
from servery.engine.parallel.team import Team
from servery.engine.ranks.rank_decoder import RankDecoder
from servery.engine.weights import open_weights

PATIENCE_S = 60.0


class Room:
    """Where the threads of a model meet."""

    def __init__(self, ranks: Ranks) -> None:
        self.barriers = [threading.Barrier(ranks.tensor) for _ in range(ranks.pipeline)]
        self.tables: list[dict[int, Tensor]] = [{} for _ in range(ranks.pipeline)]
        self.handed = [SimpleQueue() for _ in range(ranks.count)]


class ThreadTeam(Team):
    """A team whose processes are threads."""

    def __init__(self, ranks: Ranks, room: Room) -> None:
        super().__init__(ranks)
        self._room = room

    def sum(self, values: Tensor) -> Tensor:
        return values.copy_(torch.stack(self._all(values.clone())).sum(0))

    def collect(self, values: Tensor) -> Tensor:
        return torch.cat(self._all(values.clone()), dim=1)

    def share(self, values: Tensor) -> Tensor:
        return values.copy_(self._all(values.clone())[0])

    def pass_on(self, values: Tensor) -> None:
        self._room.handed[(self.ranks.rank + self.size) % self.ranks.count].put(values.clone())

    def take(self, values: Tensor) -> Tensor:
        return values.copy_(self._room.handed[self.ranks.rank].get(timeout=PATIENCE_S))

    def _all(self, values: Tensor) -> list[Tensor]:
        table, barrier = self._room.tables[self.ranks.stage], self._room.barriers[self.ranks.stage]
        table[self.ranks.tensor_rank] = values
        barrier.wait(PATIENCE_S)
        found = [table[rank] for rank in range(self.size)]
        barrier.wait(PATIENCE_S)
        return found


def load(path: Path, ranks: Ranks) -> tuple[list[RankDecoder], list[int]]:
    """The decoders of all ranks, and how many bytes of the files each read."""
    whole, room = ModelConfig.load(path), Room(ranks)
    decoders, read_bytes = [], []
    for rank in range(ranks.count):
        own = ranks.with_rank(rank)
        part, team = Part(whole, own), ThreadTeam(own, room)
        with open_weights(path, whole, torch.float32, part=part) as reader:
            model = build_decoder(part.config, reader, target=LoadTarget(team=team))
            read_bytes.append(reader.read_bytes)
        decoders.append(RankDecoder.of(model, team, part.config))
    return decoders, read_bytes


def together(work: Callable[[int], Tensor], count: int) -> list[Tensor]:
    """What `work` gives for each rank, all at the same time."""
    results: dict[int, Tensor | Exception] = {}

    def run(rank: int) -> None:
        torch.set_num_threads(1)
        try:
            results[rank] = work(rank)
        except Exception as error:  # noqa: BLE001 - told to the test
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results.values():
        if isinstance(result, Exception):
            raise result
    return [results[rank] for rank in range(count)]
