"""A ring at one end is heard at the other, and work in the background that is left changes no answer."""

import os
from pathlib import Path
from typing import Any, cast

import pytest

from servery.engine.channel import Abort, Add
from servery.engine.config import EngineConfig
from servery.engine.constraint import Constraint, ConstraintKind
from servery.engine.core import EngineCore
from servery.engine.core_process import CoreProcess
from servery.engine.doorbell import Doorbell, Interrupted, Interruption
from servery.engine.kv import KVCache
from servery.engine.pulse import Pulse, shared_memory
from servery.engine.request import BACKGROUND, NewRequest, SamplingParams
from tests.engine import tiny_model

TEXT = [5, 6, 7, 8] * 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.save(tmp_path_factory.mktemp("model"))


def request(request_id: str, priority: int, **params: Any) -> NewRequest:
    settings = {"max_tokens": 12, "temperature": 0.0, **params}
    return NewRequest(request_id=request_id, prompt=TEXT, params=SamplingParams(**settings), priority=priority)


def test_a_ring_is_heard_at_the_other_end_and_only_once() -> None:
    fd = shared_memory()
    server, engine, pulse = Doorbell(fd), Doorbell(fd), Pulse(fd)
    os.close(fd)
    listening = Interruption(engine, engine.rings)
    pulse.beat()
    listening.check()
    server.ring()
    with pytest.raises(Interrupted):
        listening.check()
    Interruption(engine, engine.rings).check()
    for end in (server, engine, server):
        end.close()
    server.ring()


def test_a_server_rings_for_those_who_wait_and_for_no_one_else() -> None:
    class Writer:
        def is_closing(self) -> bool:
            return False

        def write(self, data: bytes) -> None:
            rings.append(bell.rings)

    bell, rings = Doorbell(-1), list[int]()
    process = CoreProcess(*cast("Any", (None, None, Writer(), None, bell)))
    for message in (
        Add(request=request("batch", BACKGROUND), seed=0),
        Add(request=request("chat", 0), seed=0),
        Abort(request_id="chat"),
        Add(request=request("late", BACKGROUND - 1), seed=0),
    ):
        process.send(message)
    assert (rings, bell.rings) == ([0, 0, 1, 1], 2), "the message is there before its ring"


class Visited:
    """A core at whose door somebody rings while every other step runs."""

    def __init__(self, model: Path, *, reads: int = 0, **settings: Any) -> None:
        self._bell = Doorbell(-1)
        self._steps = 0
        config = EngineConfig(model=model, threads=1, max_model_len=128, **settings)
        self.core = EngineCore(config, before_step=self._visit, bell=self._bell)

    def _visit(self, expected_s: float | None) -> None:
        self._steps += 1
        if self._steps % 2:
            self._bell.ring()

    def answers(self, *requests: NewRequest) -> dict[str, list[int]]:
        for each in requests:
            self.core.add(each, seed=1)
        found: dict[str, list[int]] = {each.request_id: [] for each in requests}
        while self.core.has_work:
            self.core.listen()
            for output in self.core.step():
                assert output.error is None
                found[output.request_id] += output.token_ids
            self.core.scheduler.check_integrity()
        return found


CONSTRAINED = {"constraint": Constraint(kind=ConstraintKind.REGEX, text="[a-z ]{4,9}"), "temperature": 1.0, "seed": 4}


@pytest.mark.parametrize(
    ("settings", "params"),
    [
        ({"kernels": "torch"}, {}),
        ({"kernels": "auto"}, {"temperature": 1.0, "seed": 3}),
        ({"kernels": "torch", "speculate": "ngram"}, {}),
        ({"kernels": "torch", "speculate": "ngram"}, CONSTRAINED),
    ],
    ids=["torch", "native", "drafts", "constraint"],
)
def test_steps_that_are_left_change_no_answer(model: Path, settings: dict[str, Any], params: dict[str, Any]) -> None:
    undisturbed, visited = Visited(model, **settings), Visited(model, **settings)
    expected = undisturbed.answers(request("chat", 0, **params))["chat"]
    assert undisturbed.core.stats().interrupted_steps == 0, "only the background is left for others"
    found = visited.answers(*(request(name, BACKGROUND, **params) for name in ("one", "two")))
    assert found == {"one": expected, "two": expected}
    stats = visited.core.stats()
    assert stats.interrupted_steps > 0
    assert stats.failed_steps == 0


def test_a_step_is_left_between_two_layers(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(Doorbell):
        """Rung while the first layer is computed."""

        reads = 0

        @property
        def rings(self) -> int:
            self.reads += 1
            return int(self.reads > 2)

    bell = Late(-1)
    core = EngineCore(EngineConfig(model=model, threads=1, kernels="torch", max_model_len=128), bell=bell)
    computed: list[int] = []
    monkeypatch.setattr(KVCache, "write", lambda cache, layer, *rest: computed.append(layer))
    core.add(request("batch", BACKGROUND), seed=1)
    core.listen()
    assert core.step() == []
    assert (computed, core.stats().interrupted_steps) == ([0], 1)


def test_the_background_waits_while_somebody_else_waits_for_a_grammar(model: Path) -> None:
    core = EngineCore(EngineConfig(model=model, threads=1, max_model_len=128))
    core.add(request("batch", BACKGROUND, ignore_eos=True), seed=1)
    core.step()
    core.add(request("chat", 0, **CONSTRAINED), seed=1)
    order: list[str] = []
    while core.has_work:
        order += [output.request_id for output in core.step()]
    assert order == sorted(order, reverse=True), "the chat first, whenever its grammar is there"
