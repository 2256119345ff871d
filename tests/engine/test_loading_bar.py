"""The loading bar: silent unless somebody watches and it takes a while."""

import io

import pytest

from servery.engine import loading_bar
from servery.engine.loading_bar import LoadingBar


def test_a_quick_load_draws_nothing() -> None:
    stream = io.StringIO()
    with LoadingBar("loading", is_shown=True, stream=stream) as progress:
        progress(5, 10)
    assert stream.getvalue() == ""


def test_no_terminal_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading_bar, "SHOW_AFTER_S", 0.0)
    stream = io.StringIO()
    with LoadingBar("loading", stream=stream) as progress:
        progress(5, 10)
    assert stream.getvalue() == ""


def test_a_slow_load_draws_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading_bar, "SHOW_AFTER_S", 0.0)
    stream = io.StringIO()
    with LoadingBar("loading", is_shown=True, stream=stream) as progress:
        progress(5_000_000, 10_000_000)
        progress(10_000_000, 10_000_000)
    assert "loading" in stream.getvalue()
    assert "10.0/10.0 MB" in stream.getvalue()
