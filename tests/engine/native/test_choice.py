"""What computes is decided once, and said."""

import logging

import pytest

from servery.engine.errors import LoadError
from servery.engine.native import choice
from servery.engine.native.choice import choose_kernels, kernels_name
from servery.engine.native.library import Unavailable


class _Context:
    def __init__(self, library, variant, threads):
        self.variant, self.threads = variant, threads


@pytest.fixture
def machine(monkeypatch):
    """What there is: names of variants, or None without a library."""
    there = {"variants": ["avx2", "portable"]}

    def open_library():
        if there["variants"] is None:
            raise Unavailable("they are not built; do this")
        return there

    monkeypatch.setattr(choice, "open_library", open_library)
    monkeypatch.setattr(choice, "variants", lambda library: library["variants"])
    monkeypatch.setattr(choice, "NativeContext", _Context)
    return there


def test_the_best_variant_is_chosen(machine, caplog):
    for wanted in ("auto", "native"):
        context = choose_kernels(wanted, 3)
        assert (context.variant, context.threads, kernels_name(context)) == ("avx2", 3, "native-avx2")
    assert caplog.messages == []


def test_torch_is_chosen_when_asked_for(machine, caplog):
    assert choose_kernels("torch", 1) is None
    assert kernels_name(None) == "torch"
    assert caplog.messages == []


def test_without_kernels_auto_says_so_in_one_line(machine, caplog):
    machine["variants"] = None
    with caplog.at_level(logging.WARNING):
        assert choose_kernels("auto", 1) is None
    said = "computing with torch, which is slower than native kernels, and they are not built; do this"
    assert caplog.messages == [said]


def test_without_kernels_native_is_refused(machine):
    machine["variants"] = None
    with pytest.raises(LoadError, match=r"^--kernels native: they are not built; do this\.$"):
        choose_kernels("native", 1)


def test_portable_kernels_serve_only_who_asks_for_them(machine, caplog):
    machine["variants"] = ["portable"]
    assert choose_kernels("auto", 1) is None
    assert caplog.messages == [
        "computing with torch: the native kernels are made for x86 with AVX2 and later, not for this CPU"
    ]
    assert choose_kernels("native", 1).variant == "portable"
