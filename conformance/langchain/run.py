"""Run LangChain's standard tests against a server of their own."""

import os
from collections import Counter
from pathlib import Path

from conformance.environment import BUILD, environment
from conformance.outcome import Outcome, read_report, run_pytest
from conformance.server import serving

_HERE = Path(__file__).parent
REQUIREMENTS = ("langchain-tests>=1.1,<2", "langchain-openai>=1.1,<2")


def run_langchain() -> Counter[Outcome]:
    """The outcomes; a test that is marked as failing counts as skipped, and as failed when it passes.

    Raises `CannotRun`.
    """
    python = environment("langchain", REQUIREMENTS, is_pinned=False)  # it brings another httpx than ours
    with serving("amuse", "--kv-memory", "64MiB") as served:
        told = {**os.environ, "SERVERY_URL": served.url}
        arguments = ["-c", str(_HERE / "pytest.ini"), "-q", "-rxXf", "--tb=short", "test_chat_model.py"]
        text = run_pytest(python, _HERE, arguments, BUILD / "langchain.xml", told)
    return Counter(read_report(text).values())
