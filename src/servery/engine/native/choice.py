"""Which kernels the engine computes with: the native ones where they are there and fast, else torch's."""

import logging

from servery.engine.errors import LoadError
from servery.engine.native.library import FAST_VARIANTS, NativeContext, Unavailable, open_library, variants

log = logging.getLogger(__name__)


def choose_kernels(wanted: str, threads: int) -> NativeContext | None:
    """The context for an `EngineConfig.kernels`; None is torch.

    "auto" that finds no fast kernels says so once, with what to do; "native" that finds none raises `LoadError`.
    """
    if wanted == "torch":
        return None
    try:
        library = open_library()
    except Unavailable as reason:
        if wanted == "native":
            raise LoadError(f"--kernels native: {reason}.") from reason
        log.warning("computing with torch, which is slower than native kernels, and %s", reason)
        return None
    best = variants(library)[0]
    if wanted == "auto" and best not in FAST_VARIANTS:
        log.warning("computing with torch: the native kernels are made for x86 with AVX2 and later, not for this CPU")
        return None
    return NativeContext(library, best, threads)


def kernels_name(context: NativeContext | None) -> str:
    """What is told of the choice: "torch", or such as "native-avx512bf16"."""
    return "torch" if context is None else f"native-{context.variant}"
