"""Where the other machines of a model come to: who is let in, and how long they are waited for."""

import logging
import secrets
import selectors
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from msgspec import structs

from servery.engine.channel import encode_config
from servery.engine.config import EngineConfig
from servery.engine.errors import LoadError
from servery.engine.parallel.part import Ranks
from servery.engine.ranks.meeting_place import MeetingPlace
from servery.engine.ranks.messages import Line
from servery.engine.ranks.network import address_of, interface_of, listen
from servery.engine.ranks.node import Node
from servery.engine.ranks.node_line import Declined, Hello, Join, NodeLine, Spoken, Welcome
from servery.engine.ranks.required import Required

log = logging.getLogger(__name__)

# How long who has begun to speak may take to finish, and how many may stand there without a word.
WORD_S = 5.0
MAX_SILENT = 64
_LOOK_S = 0.5


class Gathered(NamedTuple):
    """All nodes but the first, and the lines to all of their processes in the order of their ranks."""

    nodes: list[Node]
    lines: list[Line]


class Reception:
    """Listens at the address that the configuration gives, until all have come. `close` it in any case."""

    def __init__(self, config: EngineConfig, ranks: Ranks, on_loss: Callable[[str], None]) -> None:
        """Raises `LoadError` where nobody can listen, or the model is not there."""
        assert config.master_addr is not None
        self._config = config
        self._ranks = ranks
        self._on_loss = on_loss
        self._required = Required.of(config)
        self._token = secrets.token_hex(16)
        self._nodes: dict[int, Node] = {}
        self._lines: dict[int, Line] = {}
        self._refusal = ""
        host = address_of(config.master_addr)
        interface = interface_of(host)
        self._listener = listen(host, config.master_port)
        self._listener.setblocking(False)
        try:
            self._store = listen(host, 0)
        except LoadError:
            self._listener.close()
            raise
        self._silent: list[socket.socket] = []
        self.place = MeetingPlace(host=host, port=self._store.getsockname()[1], interface=interface)

    @property
    def own_place(self) -> MeetingPlace:
        """The place as the first process knows it, who listens there."""
        return structs.replace(self.place, listener=self._store.fileno())

    def gather(self, wait: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> Gathered:
        """Wait for all nodes and their processes; raises `LoadError` that says who did not come, or is gone again.

        `wait` is called about twice a second, and may raise to end it.
        """
        config = self._config
        deadline = clock() + config.join_timeout_s
        log.info(
            "waiting for %d other nodes at %s:%d, for at most %g s",
            config.nnodes - 1, self.place.host, config.master_port, config.join_timeout_s,
        )  # fmt: skip
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while len(self._lines) < self._ranks.count - self._ranks.per_node:
                wait()
                self._check_losses()
                if clock() > deadline:
                    raise LoadError(self._absence())
                for key, _ in selector.select(_LOOK_S):
                    self._look(selector, key.fileobj)
        self._listener.close()  # who comes late is not to wait
        return Gathered(list(self._nodes.values()), [self._lines[rank] for rank in sorted(self._lines)])

    def close(self) -> None:
        """Listen no more; nodes that came are sent away. Safe to call twice."""
        for sock in (self._listener, self._store, *self._silent):
            sock.close()
        for node in self._nodes.values():
            node.close()

    def _look(self, selector: selectors.BaseSelector, ready: object) -> None:
        if ready is self._listener:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return  # who came is gone again
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._silent.append(sock)
            selector.register(sock, selectors.EVENT_READ)
            if len(self._silent) > MAX_SILENT:
                selector.unregister(self._silent[0])
                self._silent.pop(0).close()
            return
        assert isinstance(ready, socket.socket)
        selector.unregister(ready)
        self._silent.remove(ready)
        line = NodeLine(ready)
        try:
            is_taken = self._answer(line, line.receive(WORD_S))
        except OSError as error:
            log.info("somebody came to %s:%d who is no node: %s", self.place.host, self._config.master_port, error)
            is_taken = False
        if not is_taken:
            line.close()

    def _answer(self, line: NodeLine, said: Spoken) -> bool:
        """Whether the connection is one of the model's from now on."""
        match said:
            case Hello():
                return self._admit(line, said)
            case Join(token=token, rank=rank) if secrets.compare_digest(token.encode(), self._token.encode()):
                node = self._nodes.get(rank // self._ranks.per_node)
                if node is None or rank in self._lines or not 0 <= rank < self._ranks.count:
                    return False
                line.sock.settimeout(None)
                node.lines[rank] = self._lines[rank] = Line(line.sock)
                return True
        return False

    def _admit(self, line: NodeLine, hello: Hello) -> bool:
        objection = self._required.objection(hello)
        if objection is None and hello.node_rank in self._nodes:
            there = self._nodes[hello.node_rank].address
            objection = (
                f"node {hello.node_rank} is here already, from {there}; give each node a --node-rank of its own."
            )
        if objection is not None:
            self._refusal = f"node {hello.node_rank} from {line.peer} was refused: {objection}"
            log.warning("%s", self._refusal)
            line.send(Declined(objection))
            return False
        line.send(Welcome(self._token, encode_config(self._config), self.place))
        self._nodes[hello.node_rank] = Node(hello.node_rank, line, self._on_loss)
        log.info("node %d has come from %s", hello.node_rank, line.peer)
        return True

    def _check_losses(self) -> None:
        for node in self._nodes.values():
            if node.loss is not None:
                raise LoadError(node.loss)

    def _absence(self) -> str:
        config = self._config
        absent = [str(rank) for rank in range(1, config.nnodes) if rank not in self._nodes]
        who = f"node {', '.join(absent)} of {config.nnodes} did not come" if absent else "not all processes came"
        text = (
            f"{who} to {self.place.host}:{config.master_port} within {config.join_timeout_s:g} s (--join-timeout). Start "
            f"each with: servery worker MODEL --nnodes {config.nnodes} --node-rank RANK --master-addr {self.place.host} "
            f"--master-port {config.master_port}"
        )
        return f"{text}. The last that came: {self._refusal}" if self._refusal else f"{text}."
