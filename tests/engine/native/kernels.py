"""The native kernels for tests, in each variant that this machine can run."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from servery.engine.native.library import NativeContext, Unavailable, open_library, variants
from tests.conftest import lacking

# A run with sanitizers names another library, and fewer variants.
LIBRARY = os.environ.get("SERVERY_TEST_LIBRARY")
CHOSEN = os.environ.get("SERVERY_TEST_VARIANTS")


@cache
def context(variant: str, threads: int = 1) -> NativeContext:
    return NativeContext(_library(), variant, threads)


def require(variant: str | None) -> str:
    """Skip the running test, loudly, where there are no kernels."""
    if variant is None:
        lacking(f"the native kernels are missing: {VARIANTS[0].id}")
    assert variant is not None
    return variant


def best_context(threads: int = 1) -> NativeContext:
    """That of the variant that an engine would choose."""
    first = VARIANTS[0]
    return context(require(first if isinstance(first, str) else None), threads)


def _library() -> Any:
    return open_library(Path(LIBRARY) if LIBRARY else None)


def _all_variants() -> list[Any]:
    try:
        found = variants(_library())
    except Unavailable as reason:
        return [pytest.param(None, id=str(reason))]
    return found if CHOSEN is None else [each for each in found if each in CHOSEN.split(",")]


VARIANTS = _all_variants()
