"""The async handle on a real engine process: requests, aborts, refusals, death, restart and stop."""

import asyncio
import errno
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from servery.engine.channel import FromCore, Loading, Ready
from servery.engine.config import EngineConfig
from servery.engine.core_process import CoreProcess
from servery.engine.engine import AsyncEngine
from servery.engine.engine_state import EngineState
from servery.engine.errors import (
    CannotSleep,
    EngineDead,
    InvalidRequest,
    LoadError,
    NotEnoughMemory,
    Overloaded,
    PromptTooLong,
)
from servery.engine.memory import RESERVE_BYTES
from servery.engine.request import FinishReason, NewRequest, SamplingParams
from servery.engine.stats import EngineLife

ENDLESS = {"max_tokens": 200, "ignore_eos": True}


@asynccontextmanager
async def started(model: Path, **changes: object) -> AsyncIterator[AsyncEngine]:
    engine = AsyncEngine(EngineConfig(model=model, threads=1, max_model_len=256, **changes))  # type: ignore[arg-type]
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


def request(request_id: str, prompt: list[int] | None = None, **params: object) -> NewRequest:
    settings = SamplingParams(**{"max_tokens": 8, "ignore_eos": True, "temperature": 0.0, **params})  # type: ignore[arg-type]
    return NewRequest(request_id=request_id, prompt=prompt or [5, 6, 7], params=settings)


async def tokens(engine: AsyncEngine, one: NewRequest) -> list[int]:
    return [token async for output in engine.generate(one) for token in output.token_ids]


async def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait for heartbeats to bring news; fails when they do not within the limit."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - news of another process come by heartbeat, not by an event
            await asyncio.sleep(0.01)


def held_blocks(engine: AsyncEngine) -> int:
    return -1 if engine.stats is None else engine.stats.scheduler.held_blocks


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def engine(runner: asyncio.Runner, tiny: Path) -> Iterator[AsyncEngine]:
    """One engine for all tests that leave it as they found it; its loop runs while a test's story does."""
    engine = AsyncEngine(EngineConfig(model=tiny, threads=1, max_model_len=256))
    runner.run(engine.start())
    yield engine
    runner.run(engine.stop())


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(story())  # type: ignore[arg-type]


def test_answers_come_side_by_side_and_equal_those_given_alone(runner: asyncio.Runner, engine: AsyncEngine) -> None:
    async def story() -> None:
        requests = [request(f"r{number}", [5 + number] * 9) for number in range(6)]
        together = await asyncio.gather(*(tokens(engine, one) for one in requests))
        alone = [await tokens(engine, one) for one in requests]
        assert together == alone
        assert [len(row) for row in together] == [8] * 6
        assert engine.in_flight == 0

    runner.run(story())


def test_several_completions_end_together(runner: asyncio.Runner, engine: AsyncEngine) -> None:
    async def story() -> None:
        outputs = [output async for output in engine.generate(request("r", n=3, temperature=1.0, seed=1))]
        ends = [(o.index, o.finish_reason) for o in outputs if o.finish_reason]
        assert sorted(ends, key=str) == [(index, FinishReason.LENGTH) for index in range(3)]

    runner.run(story())


def test_closing_the_iterator_frees_its_blocks(runner: asyncio.Runner, engine: AsyncEngine) -> None:
    async def story() -> None:
        async with aclosing(engine.generate(request("r", **ENDLESS))) as outputs:
            await anext(outputs)
            await until(lambda: held_blocks(engine) > 0)
        assert engine.in_flight == 0
        await until(lambda: held_blocks(engine) == 0)

    runner.run(story())


def test_cancelling_the_task_frees_its_blocks(runner: asyncio.Runner, engine: AsyncEngine) -> None:
    async def story() -> None:
        task = asyncio.create_task(tokens(engine, request("r", **ENDLESS)))
        await until(lambda: held_blocks(engine) > 0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: held_blocks(engine) == 0)

    runner.run(story())


def test_refusals_are_the_core_s_own_errors(tiny: Path) -> None:
    async def story() -> None:
        async with started(tiny, max_waiting_requests=1, max_running=1) as engine:
            with pytest.raises(PromptTooLong, match="the context is 256"):
                await tokens(engine, request("long", [5] * 300))
            with pytest.raises(InvalidRequest, match="token ids") as caught:
                await tokens(engine, request("vocabulary", [10**6]))
            assert caught.value.param == "prompt"
            running = [asyncio.create_task(tokens(engine, request(f"r{n}", **ENDLESS))) for n in range(4)]
            results = await asyncio.gather(*running, return_exceptions=True)
            refused = [result for result in results if isinstance(result, Overloaded)]
            assert refused
            assert all(error.retry_after_s > 0 for error in refused)
            assert engine.in_flight == 0

    run(story)


def test_a_deadline_that_passes_in_the_queue_is_an_overload(tiny: Path) -> None:
    async def story() -> None:
        async with started(tiny, max_running=1) as engine:
            first = asyncio.create_task(tokens(engine, request("first", **ENDLESS)))
            await until(lambda: held_blocks(engine) > 0)
            late = NewRequest(request_id="late", prompt=[5], deadline=time.monotonic() + 0.001)
            with pytest.raises(Overloaded, match="deadline"):
                await tokens(engine, late)
            assert len(await first) == 200

    run(story)


def test_a_request_id_in_use_is_refused(runner: asyncio.Runner, engine: AsyncEngine) -> None:
    async def story() -> None:
        async with aclosing(engine.generate(request("r", **ENDLESS))) as outputs:
            await anext(outputs)
            with pytest.raises(InvalidRequest, match="'r' is in use"):
                await tokens(engine, request("r"))

    runner.run(story())


def test_a_killed_process_fails_its_requests_and_comes_back(tiny: Path) -> None:
    async def story() -> None:
        async with started(tiny) as engine:
            answer = await tokens(engine, request("before"))
            pid = engine.info.pid
            async with aclosing(engine.generate(request("during", **ENDLESS))) as outputs:
                await anext(outputs)
                os.kill(pid, signal.SIGKILL)
                with pytest.raises(EngineDead, match="died while this request was running"):
                    async for _ in outputs:
                        pass
            with pytest.raises(EngineDead, match="restarting"):
                await tokens(engine, request("too early"))
            await until(lambda: engine.is_ready)
            assert await tokens(engine, request("after")) == answer
            assert (engine.restarts, engine.info.pid != pid) == (1, True)
            assert engine.life == EngineLife(failures={"died": 1, "hung": 0}, restarts=1)

    run(story)


def test_a_system_that_has_no_process_to_give_is_asked_again(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An OSError from starting the process once ended the supervisor: no log line, and restarting for ever."""
    spawn = asyncio.create_subprocess_exec
    attempts: list[object] = []

    async def refuses_once(*words: str, **options: Any) -> asyncio.subprocess.Process:
        attempts.append(words)
        if len(attempts) == 1:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return await spawn(*words, **options)

    async def story() -> None:
        async with started(tiny) as engine:
            monkeypatch.setattr("servery.engine.engine.FIRST_RESTART_S", 0.01)
            monkeypatch.setattr(asyncio, "create_subprocess_exec", refuses_once)
            os.kill(engine.info.pid, signal.SIGKILL)
            await until(lambda: engine.restarts == 1)
            assert len(attempts) == 2
            assert len(await tokens(engine, request("after"))) == 8

    run(story)


def test_how_long_a_dead_engine_takes_to_come_back_is_known(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servery.engine.engine.FIRST_RESTART_S", 30.0)

    async def story() -> None:
        async with started(tiny) as engine:
            assert engine.restart_in_s == 0
            os.kill(engine.info.pid, signal.SIGKILL)
            await until(lambda: engine.restart_in_s > 0)
            assert engine.restart_in_s <= 30
            assert engine.state is EngineState.RESTARTING

    run(story)


def test_a_process_that_cannot_be_understood_is_replaced(tiny: Path) -> None:
    """A restarted process is of the version that is installed then, which need not be the server's."""

    async def story() -> None:
        async with started(tiny) as engine:
            pid = engine.info.pid
            assert engine._process is not None
            engine._process.decoder = msgspec.msgpack.Decoder(Ready)  # type: ignore[assignment]
            await until(lambda: engine.state is EngineState.RESTARTING)
            await until(lambda: engine.is_ready)
            assert (engine.restarts, engine.info.pid != pid) == (1, True)

    run(story)


def test_a_signal_to_the_whole_group_leaves_the_engine_to_its_server(tiny: Path) -> None:
    """Ctrl-C and service managers signal every process; answers under way must still be finished by the drain."""

    async def story() -> None:
        async with started(tiny) as engine:
            running = asyncio.create_task(tokens(engine, request("r", **ENDLESS)))
            await until(lambda: held_blocks(engine) > 0)
            os.kill(engine.info.pid, signal.SIGTERM)
            os.kill(engine.info.pid, signal.SIGINT)
            assert len(await running) == 200
            assert engine.restarts == 0

    run(story)


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_sleeping_engine_gives_its_memory_back_and_wakes_in_the_same_process(tiny: Path) -> None:
    async def story() -> None:
        async with started(tiny, kv_memory_bytes=64 << 20) as engine:
            answer = await tokens(engine, request("before"))
            long = [5 + number % 200 for number in range(200)]
            await asyncio.gather(*(tokens(engine, request(f"r{n}", [n + 5, *long])) for n in range(20)))
            pid, awake_bytes = engine.info.pid, resident_bytes(engine.info.pid)
            freed_bytes = await engine.sleep()
            assert (engine.state, engine.memory_bytes) == (EngineState.ASLEEP, RESERVE_BYTES)
            assert freed_bytes >= 64 << 20
            assert resident_bytes(pid) < awake_bytes
            with pytest.raises(EngineDead, match="asleep"):
                await tokens(engine, request("too early"))
            with pytest.raises(EngineDead, match="asleep"):
                await engine.sleep()
            await engine.wake()
            assert await tokens(engine, request("after")) == answer
            assert engine.memory_bytes > 64 << 20
            assert (engine.info.pid, engine.restarts) == (pid, 0)

    run(story)


def test_an_engine_with_requests_under_way_does_not_sleep(tiny: Path) -> None:
    async def story() -> None:
        async with started(tiny) as engine:
            async with aclosing(engine.generate(request("r", **ENDLESS))) as outputs:
                await anext(outputs)
                with pytest.raises(CannotSleep, match="1 requests are under way"):
                    await engine.sleep()
                assert engine.is_ready
            await engine.sleep()

    run(story)


def test_a_reason_not_to_sleep_reaches_who_asked_and_nothing_has_changed(tiny: Path, tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tiny, sleep_dir=tmp_path / "nowhere") as engine:
            with pytest.raises(CannotSleep, match=r"cannot be written to .*nowhere: No such file or directory\."):
                await engine.sleep()
            assert len(await tokens(engine, request("r"))) == 8

    run(story)


def test_an_engine_that_dies_asleep_stays_away_until_it_is_started(tiny: Path) -> None:
    async def story() -> None:
        async with started(tiny) as engine:
            answer = await tokens(engine, request("before"))
            await engine.sleep()
            os.kill(engine.info.pid, signal.SIGKILL)
            await until(lambda: engine.state is EngineState.STOPPED)
            with pytest.raises(EngineDead, match="stopped, not asleep"):
                await engine.wake()
            await engine.start()
            assert await tokens(engine, request("after")) == answer
            assert engine.life == EngineLife(failures={"died": 1, "hung": 0}, restarts=0)

    run(story)


def test_a_stopped_engine_starts_again_with_what_it_may_take_then(tiny: Path) -> None:
    async def story() -> None:
        async with started(tiny) as engine:
            answer = await tokens(engine, request("before"))
            await engine.stop()
            assert engine.memory_bytes == 0
            with pytest.raises(NotEnoughMemory, match=r"1 MiB are available \(--memory\)"):
                await engine.start(1 << 20)
            await engine.start(1 << 30)
            assert await tokens(engine, request("after")) == answer
            assert engine.memory_bytes <= 1 << 30

    run(story)


def test_an_engine_that_is_stopped_while_it_loads_ends(tiny: Path) -> None:
    async def story() -> None:
        engine = AsyncEngine(EngineConfig(model=tiny, threads=1))
        starting = asyncio.create_task(engine.start())
        await until(lambda: engine._process is not None)
        await engine.stop()
        with pytest.raises(EngineDead, match="stopped while it was loading"):
            await starting
        assert (engine.state, engine._process) == (EngineState.STOPPED, None)

    run(story)


def test_stop_fails_what_is_under_way_and_everything_after(tiny: Path) -> None:
    async def story() -> None:
        async with started(tiny) as engine:
            running = asyncio.create_task(tokens(engine, request("r", **ENDLESS)))
            await until(lambda: held_blocks(engine) > 0)
            await engine.stop()
            with pytest.raises(EngineDead, match="stopped"):
                await running
            with pytest.raises(EngineDead, match="stopped"):
                await tokens(engine, request("after"))

    run(story)


def test_the_heart_beats_while_idle(runner: asyncio.Runner, engine: AsyncEngine) -> None:
    async def story() -> None:
        await until(lambda: engine.stats is not None)
        first = engine.stats
        await until(lambda: engine.stats is not first)
        assert engine.heartbeat_age_s() < 5.0

    runner.run(story())


def test_a_model_that_cannot_be_loaded_says_why(tiny: Path) -> None:
    async def story() -> None:
        async with started(tiny, kv_memory_bytes=1000):
            pass

    with pytest.raises(NotEnoughMemory, match="one context of 256 tokens needs") as caught:
        run(story)
    assert caught.value.needed_bytes > 1000


@pytest.mark.parametrize("is_planned", [True, False])
def test_a_process_that_is_killed_while_loading_is_told_with_what_was_planned(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, is_planned: bool
) -> None:
    """As the system does it that runs out of memory: without a word. Before there is a plan, nobody knows why."""
    receive = CoreProcess.receive

    async def kills(process: CoreProcess) -> list[FromCore]:
        while is_planned:
            (first, *_) = await receive(process)
            if isinstance(first, Loading):
                os.kill(process.pid, signal.SIGKILL)
                monkeypatch.setattr(CoreProcess, "receive", receive)
                return [first]
        os.kill(process.pid, signal.SIGKILL)
        monkeypatch.setattr(CoreProcess, "receive", receive)
        return await receive(process)

    async def story() -> None:
        async with started(tiny):
            pass

    monkeypatch.setattr(CoreProcess, "receive", kills)
    with pytest.raises(LoadError) as caught:
        run(story)
    if is_planned:
        assert isinstance(caught.value, NotEnoughMemory)
        assert "was killed while it loaded the model" in str(caught.value)
        assert f"The model needs {caught.value.needed_bytes} bytes" in str(caught.value)
    else:
        assert str(caught.value) == f"the engine process ended with status -9 while it loaded {tiny}."


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path / "nowhere"):
            pass

    with pytest.raises(LoadError, match="nowhere is not a directory"):
        run(story)
