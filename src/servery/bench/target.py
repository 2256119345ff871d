"""The server under test: which model it is asked for, which parameters it takes, how it counts tokens."""

import contextlib
import errno
import resource
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servery.bench.address import Address
from servery.bench.client import LOADING_S, Client
from servery.bench.dialect import Dialect
from servery.bench.errors import ClientError, WrongStatus
from servery.bench.options import TargetOptions
from servery.bench.prompts import TokenCounter, token_counter

Connect = Callable[[], Client]


@dataclass(frozen=True, slots=True)
class Target:
    """A server that has answered; `control` is a connection apart from those of the load."""

    address: Address
    model: str
    dialect: Dialect
    counter: TokenCounter
    control: Client
    connect: Connect

    @classmethod
    async def open(cls, options: TargetOptions, sample: dict[str, Any]) -> "Target":
        """Wait until the server is ready and find out what it takes, with short answers to requests like `sample`.

        Raises `ClientError`: what the first request met.
        """
        address = Address.parse(options.url)
        _allow_many_connections()

        def connect() -> Client:
            return Client(address, options.api_key, options.timeout_s)

        control = connect()
        try:
            await control.wait_until_ready(LOADING_S)
            model = options.model or await control.first_model()
            dialect = await _probe(control, {**sample, "model": model})
            return cls(address, model, dialect, await token_counter(control, model), control, connect)
        except BaseException:
            control.close()
            raise

    async def metrics(self) -> str:
        """In Prometheus' text format; nothing where it shows none to this client."""
        try:
            return await self.control.metrics()
        except ClientError:
            return ""


def _allow_many_connections() -> None:
    """As many open files as this user may have: an open loop needs a connection for each request under way."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some systems refuse what they have said is allowed
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _probe(client: Client, request: dict[str, Any]) -> Dialect:
    request = {**request, "messages": [{"role": "user", "content": "one"}], "max_tokens": 1}
    dialect = Dialect()
    while True:
        try:
            async with aclosing(client.chat(dialect.speak(request))) as deltas:
                async for _ in deltas:
                    pass
        except WrongStatus as error:
            learnt = dialect.learn(request, error)
            if learnt is None:
                raise
            dialect = learnt
        else:
            return dialect


def require_folder(path: Path | None) -> None:
    """Raises `FileNotFoundError` before any work is done for a file in a folder that is not there."""
    if path is not None and not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such directory to write to", str(path.parent))
