"""`python -m conformance SUITE`: run a suite, print what it says, and exit with 0 only if that is what was expected."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from conformance.errors import CannotRun
from conformance.sdk import ANTHROPIC, OPENAI, Sdk, run_sdk

DONE, FAILED, CANNOT_RUN = 0, 1, 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    suites = top.add_subparsers(title="suites", metavar="SUITE", dest="suite", required=True)
    for name, sdk in (("openai", OPENAI), ("anthropic", ANTHROPIC)):
        suite = suites.add_parser(name, help=f"the tests of the official client `{sdk.package}`")
        suite.add_argument("--checkout", type=Path, metavar="PATH", help="a checkout; else the sources are downloaded")
        suite.add_argument("--url", help="a server that runs, as the client takes it; else one is started")
        suite.set_defaults(run=_sdk, sdk=sdk)
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


if __name__ == "__main__":
    sys.exit(main())
