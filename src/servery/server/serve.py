"""`servery serve`: the process that listens, from the first line it prints to its exit code."""

import asyncio
import contextlib
import gc
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import uvloop

from servery.batch.work import Asked
from servery.config.live import LiveConfig
from servery.config.types import Config, DeploymentConfig, LimitsConfig
from servery.gateway.admit.limits.limiter import Limiter
from servery.gateway.admit.limits.meter import LimitStore
from servery.gateway.admit.limits.stores import limit_store
from servery.gateway.fleet import Fleet
from servery.gateway.gateway import Gateway
from servery.logs import VARIABLE, set_up_logging
from servery.server.address import listening_socket, url_of
from servery.server.admin import AdminDoor
from servery.server.app import App
from servery.server.auth import KeyRing
from servery.server.budgets import recall_spent
from servery.server.ceilings_watch import CeilingsWatch
from servery.server.configured_engine import engine_faults
from servery.server.dashboard.board import Dashboard
from servery.server.front import Fronts
from servery.server.house import House
from servery.server.implied import implied_fleet
from servery.server.key_store import KeyStoreError
from servery.server.key_watch import KeyWatch, store_path
from servery.server.listener import Listener
from servery.server.metrics_door import MetricsDoor
from servery.server.option_error import OptionError
from servery.server.options import ServeOptions
from servery.server.places import Places
from servery.server.reload import Reloader
from servery.server.service import Service
from servery.server.siblings import Siblings
from servery.server.slo_source import slo_watch
from servery.server.storage import Answering, Storage, open_storage
from servery.server.told_start import told_engine, told_loss
from servery.server.traced import server_tracer
from servery.server.workers import Post, Workers, check_workers
from servery.telemetry.ledger.audit import AuditLog
from servery.telemetry.ledger.errors import LedgerError
from servery.telemetry.ledger.writer import Ledger
from servery.telemetry.metrics import Metrics
from servery.telemetry.settled import SettledRows
from servery.upstream.upstream import Upstream

log = logging.getLogger("servery.serve")

DONE = 0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(options: ServeOptions) -> int:
    """Serve until told to stop; return the process's exit code.

    0: every answer under way could be finished, or was told, after SIGTERM or SIGINT; 128 + the signal's number: told
    twice to stop. Raises `OptionError` when the address cannot be listened on, `LoadError` when a model cannot be loaded.
    """
    started_s = time.monotonic()
    os.environ[VARIABLE] = options.log_format
    set_up_logging(options.log_level.upper(), options.log_format)
    check_workers(options)
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(listening_socket(options.host, options.port))
        if options.workers == 1:
            return _serve(options, sock, started_s)
        port = sock.getsockname()[1]  # nobody else has it: those that share it would let others in
        sock.close()
        shared = [listening_socket(options.host, port, is_shared=True) for _ in range(options.workers)]
        for each in shared:
            stack.enter_context(each)
        return Workers(shared, lambda own, post: _serve(options, own, started_s, post)).run()


def _serve(options: ServeOptions, sock: socket.socket, started_s: float, post: Post | None = None) -> int:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Serving(options, sock, started_s, post).run())


class _Serving:
    """One run of the server; `post` is its place among several."""

    def __init__(self, options: ServeOptions, sock: socket.socket, started_s: float, post: Post | None = None) -> None:
        self._options = options
        self._post = post
        self._sock = sock
        self._started_s = started_s
        metrics = Metrics()
        self._house = House(options, metrics, lambda name, info: _say(told_engine(name, info)))
        self._places = Places(self._house)
        house = self._house
        self._ceilings = CeilingsWatch(lambda: house.upstreams, options.ceilings)
        metrics.watch_ceilings(self._ceilings.of)
        settled = SettledRows()
        self._ledger = ledger = None if options.ledger is None else Ledger(options.ledger, told=settled.take)
        if ledger is not None:
            metrics.gateway.watch_ledger(lambda: ledger.figures)
        self._limits = _limits(options.config, metrics)
        self._gateway = gateway = Gateway(
            self._fleet(options.config),
            metrics,
            self._ledger or settled,
            limiter=Limiter(self._limits, metrics.gateway),
        )
        keys = options.key_ring()
        self._key_watch = _key_watch(options, keys)
        self._tracer = tracer = server_tracer(options.config, 0 if post is None else post.number)
        if tracer is not None:
            metrics.watch_traces(lambda: tracer.figures)
        live = None if options.config is None else LiveConfig(options.config, check_engine=engine_faults)
        self._service = Service(
            upstreams=self._house.upstreams if live is None else Fronts(gateway),
            gateway=gateway,
            residences=self._house.residences,
            look_for=self._look_for,
            reload=None if live is None else self._reload,
            metrics=metrics,
            slo=slo_watch(options.ledger, gateway, metrics, post),
            options=options,
            keys=keys,
            key_watch=self._key_watch,
            viewers=KeyRing(options.viewer_keys),
            admin=AdminDoor(options.admin_keys, keys, options.host),
            metrics_door=MetricsDoor(options.metrics_keys, options.admin_keys, keys),
            clock=time.monotonic,
            audit=AuditLog(options.ledger),
            tracer=tracer,
            storage=None if options.files is None else self._open_storage(options.files, metrics),
        )
        if post is not None:
            page = self._service.metrics_page
            self._service.siblings = Siblings(post.folder, post.number, post.count, page)
        port = sock.getsockname()[1]
        self._dashboard = Dashboard(self._service, settled, self._limits, port=port, ledger=ledger, post=post)
        self._service.dashboard = self._dashboard
        share = None if post is None else post.share
        self._reloader = None if live is None else Reloader(live, self._service, self._places, share)
        self._listener = Listener(App(self._service).answer)
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue()

    def _open_ledger(self) -> None:
        if self._ledger is not None:
            try:
                lost = self._ledger.start()
            except LedgerError as error:
                raise OptionError(str(error)) from error
            for run in lost:
                _say(told_loss(run))
            recall_spent(self._limits, self._options.ledger, time.time())

    def _fleet(self, config: Config | None) -> Fleet:
        if config is None:
            return implied_fleet(self._house.upstreams, self._options.request_timeout_s, time.monotonic)
        # Engines of this process are there already.
        own = self._house.upstreams

        def upstream(deployment: DeploymentConfig) -> Upstream:
            return own[deployment.name] if deployment.name in own else self._places.upstream(deployment)

        own_part = config if self._post is None else self._post.share(config)
        return Fleet.of(own_part, upstream, time.monotonic, random.random)

    async def _reload(self) -> None:
        if self._reloader is not None:
            await self._reloader.reload()

    async def _look_for(self, name: str) -> None:
        """Take in a model that came since the start, if there is one of that name."""
        if self._reloader is not None:
            return
        await self._house.look_for(name)
        gateway, upstreams = self._gateway, self._house.upstreams
        if len(upstreams) > len(gateway.fleet.models):
            total_s = self._options.request_timeout_s
            gateway.swap(implied_fleet(upstreams, total_s, time.monotonic, gateway.fleet))

    def _open_storage(self, folder: Path, metrics: Metrics) -> Storage:
        options = self._options
        try:
            storage = open_storage(
                folder,
                max_bytes=options.max_files_bytes,
                max_file_bytes=options.max_file_bytes,
                answer=self._answer_batched,
            )
            metrics.watch_batches(lambda: storage.figures)
            return storage
        except (OSError, msgspec.DecodeError) as error:
            raise OptionError(
                f"--files {folder} cannot be used: {getattr(error, 'strerror', None) or error}."
            ) from error

    async def _answer_batched(self, asked: Asked) -> bytes:
        service = self._service
        answering = Answering(
            service.located,
            service.gateway.collect,
            service.keys.caller,
            tracer=service.tracer,
            clock=service.clock,
        )
        return await answering.answer(asked)

    async def run(self) -> int:
        """Listen, load, serve, drain; returns the exit code."""
        loop = asyncio.get_running_loop()
        self._open_ledger()
        if self._tracer is not None:
            self._tracer.start()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._signals.put_nowait, number)
        listening = asyncio.create_task(self._listener.serve(self._sock))
        told = asyncio.create_task(self._signals.get())
        loading = asyncio.create_task(self._load())
        storage = self._service.storage
        others = [] if storage is None else [asyncio.create_task(_run_batches(storage, loading), name="batches")]
        if self._key_watch is not None:
            others.append(asyncio.create_task(self._key_watch.watch(), name="keys"))
        if self._reloader is not None:
            loop.add_signal_handler(signal.SIGHUP, self._reloader.hear)
            others.append(asyncio.create_task(self._reloader.watch(), name="configuration"))
        if self._post is None:  # else there is no engine in this process
            others.append(asyncio.create_task(self._ceilings.watch(), name="ceilings"))
        for task in others:
            task.add_done_callback(_tell_end)
        if self._post is not None:
            loop.add_reader(self._post.parent, self._orphaned, self._post.parent)
        try:
            await asyncio.wait((loading, told, listening), return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()  # raises what says that a model cannot be served
                await asyncio.wait((told, listening), return_when=asyncio.FIRST_COMPLETED)
            return await self._drain() if told.done() else DONE
        finally:
            await self._end(listening, loading, told, *others)

    def _orphaned(self, pipe: int) -> None:
        """The parent has gone without a word: nobody would start this one again, or stop it."""
        asyncio.get_running_loop().remove_reader(pipe)
        self._signals.put_nowait(signal.SIGTERM)

    async def _load(self) -> None:
        if self._service.siblings is not None:
            self._figures = await self._service.siblings.listen()
        if self._dashboard.feed.peers is not None:
            self._parts = await self._dashboard.feed.peers.listen()
        await self._places.start(self._gateway.fleet)
        await _all_started(self._house.at_start)
        _spare_collector()
        if self._post is not None and self._post.number > 0:
            return  # the first one speaks for all
        took_s = time.monotonic() - self._started_s
        config = self._options.config
        loaded = [upstream.name for upstream in self._house.at_start]
        others = [name for name in self._house.upstreams if name not in loaded]
        served = loaded if config is None else list(config.models)
        names = f" with {', '.join(served)}," if served else ""
        _say(f"Servery is ready at {url_of(self._sock)}{names} {took_s:.1f} s after its start.")
        if others:
            when = "when a request asks for it" if self._options.residence.on_demand else "by /v1/models/load"
            _say(f"Not loaded yet, each {when}: {', '.join(others)}.")

    async def _drain(self) -> int:
        """Finish what is under way; a second signal cuts that short."""
        limit_s, in_flight = self._service.options.drain_timeout_s, self._service.lifecycle.in_flight
        _say(f"Stopping: no new work; {in_flight} answers may go on for {limit_s:g} s. Once more stops at once.")
        draining = asyncio.create_task(self._service.lifecycle.drain(limit_s))
        again = asyncio.create_task(self._signals.get())
        await asyncio.wait((draining, again), return_when=asyncio.FIRST_COMPLETED)
        if draining.done():
            again.cancel()
            _say("Stopped." if draining.result() else "Stopped; what could not be finished in time was told so.")
            return DONE
        self._service.lifecycle.end_all()
        await draining
        return 128 + again.result()

    async def _end(self, listening: "asyncio.Task[None]", *others: "asyncio.Task[object]") -> None:
        """Close everything, whatever happened."""
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._dashboard.feed.close()
        self._listener.end()
        upstreams = {id(each): each for each in (*self._house.upstreams.values(), *self._gateway.upstreams)}
        results = await asyncio.gather(
            listening, self._places.stop(list(upstreams.values())), return_exceptions=True
        )  # each is ended, whatever another did
        await self._gateway.close()
        if self._key_watch is not None:
            self._key_watch.close()
        if self._ledger is not None:
            await asyncio.to_thread(self._ledger.close)
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)
        for error in results:
            if isinstance(error, BaseException):
                raise error


def _tell_end(task: "asyncio.Task[None]") -> None:
    """Nobody would notice before the server stops."""
    if not task.cancelled():
        log.critical("the work on %s goes on with the next start only", task.get_name(), exc_info=task.exception())


def _key_watch(options: ServeOptions, keys: KeyRing) -> KeyWatch | None:
    path = store_path(options.key_store, options.ledger)
    try:
        return None if path is None else KeyWatch(path, keys, must_be=options.key_store is not None)
    except KeyStoreError as error:
        raise OptionError(str(error)) from error


def _limits(config: Config | None, metrics: Metrics) -> LimitStore:
    try:
        return limit_store(LimitsConfig() if config is None else config.limits, metrics.gateway)
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise OptionError(
            "limits: redis: the client is not installed; pip install 'servery[redis]' brings it."
        ) from None
    except ValueError:  # which may show a part of the password
        raise OptionError("limits: redis: the client does not take this address; write redis://HOST:6379/0.") from None


async def _all_started(upstreams: Sequence[Upstream]) -> None:
    """Load all models; they come one after the other. Raises what the first says that cannot be loaded."""
    loading = [asyncio.create_task(upstream.start()) for upstream in upstreams]
    try:
        for task in loading:
            await task
    finally:
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, return_exceptions=True)


def _spare_collector() -> None:
    """Let Python's search for cycles leave alone what stays to the end, and look seldom: little here makes any."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _say(text: str) -> None:
    """Tell the user; logs go elsewhere."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def _run_batches(storage: Storage, loading: "asyncio.Task[None]") -> None:
    """Go on with batches once the models are there: a model that nobody has begun to load refuses what is asked of it."""
    await asyncio.wait((loading,))
    await storage.runner.run()
