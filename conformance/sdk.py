"""The test-suites of the official clients, which know how to be pointed at another server."""

import contextlib
import os
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from conformance.environment import BUILD, environment, say, source
from conformance.errors import CannotRun
from conformance.expectation import Verdict, judge, read_reasons
from conformance.outcome import read_report, run_pytest
from conformance.server import serving
from conformance.stand_ins import OPENAI_IDS, Makers, standing_in

_FOLDER = "tests/api_resources"
# The suites ask for models by the vendors' names.
_SERVED = ("--alias", "*=amuse", "--kv-memory", "64MiB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sdk:
    """A client's suite: `files` below `tests/api_resources` are those of endpoints that are offered here.

    `path` is what the client's address has after host and port; `tools` is what its tests import beside itself;
    `made_up` are the ids of objects that its tests take to exist, and what makes one.
    """

    package: str
    path: str
    files: tuple[str, ...]
    tools: tuple[str, ...]
    made_up: Makers = field(default_factory=dict)

    @property
    def list_file(self) -> Path:
        """The tests that cannot pass, with the reasons."""
        return Path(__file__).parent / f"{self.package}.toml"


OPENAI = Sdk(
    package="openai",
    path="/v1",
    files=(
        "chat/test_completions",
        "responses",
        "test_batches",
        "test_completions",
        "test_embeddings",
        "test_files",
        "test_models",
        "test_responses",
    ),
    tools=("pytest", "pytest-asyncio", "rich", "inline-snapshot", "trio"),
    made_up=OPENAI_IDS,
)
ANTHROPIC = Sdk(
    package="anthropic",
    path="",
    files=("test_messages", "test_models"),
    tools=("pytest", "pytest-asyncio", "rich", "inline-snapshot", "http-snapshot", "respx"),
)


def run_sdk(sdk: Sdk, checkout: Path | None, url: str | None) -> Verdict:
    """Run a client's suite, from a checkout or its source distribution, against `url` or a server of its own.

    Raises `CannotRun` when there is nothing to run.
    """
    place = source(sdk.package, version(sdk.package)) if checkout is None else checkout.resolve()
    files = [_file(place, name) for name in sdk.files]
    python = environment(sdk.package, [f"{place}[aiohttp]", *sdk.tools])
    say(f"{sdk.package} from {place}")
    report = BUILD / f"{sdk.package}.xml"
    with contextlib.ExitStack() as stack:
        if url is None:
            kept = stack.enter_context(TemporaryDirectory())
            url = stack.enter_context(serving("amuse", *_SERVED, "--files", kept)).url
        if sdk.made_up:
            url = stack.enter_context(standing_in(url, sdk.made_up))
        text = run_pytest(python, place, _arguments(files), report, _told(place, url + sdk.path))
    return judge(read_report(text, _FOLDER), read_reasons(sdk.list_file.read_text()))


def _file(place: Path, name: str) -> str:
    path = f"{_FOLDER}/{name}"
    found = next((each for each in (f"{path}.py", path) if (place / each).exists()), None)
    if found is None:
        raise CannotRun(f"{place} has no {path}.py; it must be a checkout of the client's repository")
    return found


def _arguments(files: list[str]) -> list[str]:
    """All of pytest's options but those in the suite's own configuration, some of which need plugins."""
    return ["-o", "addopts=", "-q", "--tb=no", "--no-header", *files]


def _told(place: Path, url: str) -> dict[str, str]:
    return {**os.environ, "TEST_API_BASE_URL": url, "PYTHONPATH": str(place / "src")}
