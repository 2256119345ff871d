"""`python -m conformance SUITE`: run a suite, print what it says, and exit with 0 only if that is what was expected."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from conformance.errors import CannotRun
from conformance.fuzz.server_state import METRICS_KEY
from conformance.harness.compare import compare
from conformance.langchain.run import run_langchain
from conformance.outcome import Outcome
from conformance.sdk import ANTHROPIC, OPENAI, Sdk, run_sdk
from conformance.server import serving

DONE, FAILED, CANNOT_RUN = 0, 1, 2
# Little of everything, so that queues, blocks and files run out.
FUZZED = (
    "--log-level warning --kv-memory 17MiB --max-running 8 --max-waiting-requests 32 --max-file 64KiB --speculate ngram "
    f"--alias *=amuse --admin-key of-nobody --metrics-key {METRICS_KEY}"
).split()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    suites = top.add_subparsers(title="suites", metavar="SUITE", dest="suite", required=True)
    for name, sdk in (("openai", OPENAI), ("anthropic", ANTHROPIC)):
        suite = suites.add_parser(name, help=f"the tests of the official client `{sdk.package}`")
        suite.add_argument("--checkout", type=Path, metavar="PATH", help="a checkout; else the sources are downloaded")
        suite.add_argument("--url", help="the address of a server, without /v1; else one is started")
        suite.set_defaults(run=_sdk, sdk=sdk)
    langchain = suites.add_parser("langchain", help="LangChain's standard integration tests for chat models")
    langchain.set_defaults(run=_langchain)
    harness = suites.add_parser("lm-eval", help="the same tasks of lm-eval through the API and offline")
    harness.add_argument("--questions", type=int, default=200, help="of each task (default %(default)s)")
    harness.add_argument("--seed", type=int, default=0, help="by which they are drawn (default %(default)s)")
    harness.set_defaults(run=_harness)
    fuzzer = suites.add_parser("fuzz", help="requests of all kinds, right and wrong, many at a time")
    fuzzer.add_argument("--seconds", type=float, default=600.0, help="how long (default %(default)g)")
    fuzzer.add_argument("--seed", type=int, default=0, help="of the first round (default %(default)s)")
    fuzzer.set_defaults(run=_fuzz)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a suite; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        passed: bool = options.run(options)
    except CannotRun as error:
        sys.stderr.write(f"conformance: {error}\n")
        return CANNOT_RUN
    return DONE if passed else FAILED


def _sdk(options: argparse.Namespace) -> bool:
    sdk: Sdk = options.sdk
    verdict = run_sdk(sdk, options.checkout, options.url)
    print(verdict)
    return verdict.is_as_listed


def _langchain(options: argparse.Namespace) -> bool:
    outcomes = run_langchain()
    print(", ".join(f"{outcomes[each]} {each.value}" for each in Outcome))
    return outcomes[Outcome.PASSED] > 0 and not outcomes[Outcome.FAILED]


def _harness(options: argparse.Namespace) -> bool:
    compared = compare(options.questions, options.seed)
    print(*compared, sep="\n")
    return all(task.is_equal for task in compared)


def _fuzz(options: argparse.Namespace) -> bool:
    from conformance.fuzz.campaign import fuzz
    from conformance.fuzz.claims import Fault

    with TemporaryDirectory() as kept, serving("amuse", "--files", kept, *FUZZED) as served:
        try:
            print(fuzz(served.url, served.pid, seconds=options.seconds, first_seed=options.seed))
        except Fault as fault:
            print(f"FAULT: {fault}", "The server said last:", "".join(list(served.said)[-60:]), sep="\n")
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
