"""A checkout must be one, and the command line says so."""

from pathlib import Path

import pytest

from conformance.__main__ import CANNOT_RUN, main


@pytest.mark.parametrize("suite", ["openai", "anthropic"])
def test_what_is_no_checkout_is_refused_before_anything_is_installed(
    suite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([suite, "--checkout", str(tmp_path)]) == CANNOT_RUN
    assert "it must be a checkout of the client's repository" in capsys.readouterr().err
