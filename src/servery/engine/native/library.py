"""The compiled kernels as Python calls them: one library, found and checked, and a context of threads over it."""

import ctypes
import os
from ctypes import POINTER, Structure, byref, c_char_p, c_double, c_float, c_int32, c_int64, c_uint64, c_void_p
from functools import cache
from pathlib import Path

from servery.engine.native import build
from servery.engine.native.arena import Arena

HOW_TO_BUILD = "python -m servery.engine.native.build"
# Variants that are faster than torch, so that `auto` chooses them.
FAST_VARIANTS = frozenset({"avx2", "avx512", "avx512bf16"})

BAD_SHAPE, INTERRUPTED = 2, 3
F32, BF16, I8 = 0, 1, 2
KIND_F32, KIND_BF16, KIND_I8, KIND_I4 = 0, 1, 2, 3
NORM_NONE, NORM_RMS, NORM_CENTERED, NORM_SCALE = 0, 1, 2, 3
ACTIVATION_SILU, ACTIVATION_GELU_TANH = 0, 1


class Unavailable(Exception):
    """There are no native kernels here; the message says why, and how to get them."""


class LinearStruct(Structure):
    """`NativeLinear` of interface.h."""

    _fields_ = (
        ("kind", c_int32),
        ("wide_scales", c_int32),
        ("has_minima", c_int32),
        ("reserved", c_int32),
        ("n", c_int64),
        ("k", c_int64),
        ("group", c_int64),
        ("panels", c_void_p),
        ("bias", c_void_p),
    )


class RowsStruct(Structure):
    """`NativeRows` of interface.h."""

    _fields_ = (("data", c_void_p), ("type", c_int32), ("reserved", c_int32), ("stride", c_int64))


class CacheStruct(Structure):
    """`NativeCache` of interface.h."""

    _fields_ = (
        ("data", c_void_p),
        ("scales", c_void_p),
        ("type", c_int32),
        ("reserved", c_int32),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("block_size", c_int64),
    )


class ExtentStruct(Structure):
    """`NativeExtent` of interface.h."""

    _fields_ = (("blocks", c_void_p), ("query_start", c_int64), ("tokens", c_int64), ("start", c_int64))


class AttentionStruct(Structure):
    """`NativeAttention` of interface.h."""

    _fields_ = (
        ("cache", CacheStruct),
        ("heads", c_int64),
        ("window", c_int64),
        ("scale", c_float),
        ("soft_cap", c_float),
        ("sinks", c_void_p),
    )


class NormStruct(Structure):
    """`NativeNorm` of interface.h."""

    _fields_ = (("weight", c_void_p), ("constant", c_float), ("kind", c_int32))


class HeadNormStruct(Structure):
    """`NativeHeadNorm` of interface.h."""

    _fields_ = (
        ("weight", c_void_p),
        ("query_constant", c_float),
        ("key_constant", c_float),
        ("is_wide", c_int32),
        ("is_late", c_int32),
    )


_LINEAR, _ROWS = POINTER(LinearStruct), POINTER(RowsStruct)


class LayerStruct(Structure):
    """`NativeLayer` of interface.h."""

    _fields_ = (
        ("attention_norm", NormStruct),
        ("attention_post", NormStruct),
        ("mlp_norm", NormStruct),
        ("mlp_post", NormStruct),
        ("qkv", _LINEAR),
        ("output", _LINEAR),
        ("gate_up", _LINEAR),
        ("down", _LINEAR),
        ("head_norm", HeadNormStruct),
        ("attention", AttentionStruct),
        ("angles", c_int64),
    )


class ModelStruct(Structure):
    """`NativeModel` of interface.h."""

    _fields_ = (
        ("layers", c_int64),
        ("layer", POINTER(LayerStruct)),
        ("hidden_size", c_int64),
        ("is_parallel", c_int32),
        ("activation", c_int32),
        ("embedding", _LINEAR),
        ("embedding_rows", RowsStruct),
        ("vocab_size", c_int64),
        ("embedding_scale", c_float),
        ("type", c_int32),
        ("norm", NormStruct),
    )


class StepStruct(Structure):
    """`NativeStep` of interface.h."""

    _fields_ = (
        ("tokens", c_int64),
        ("ids", c_void_p),
        ("positions", c_void_p),
        ("slots", c_void_p),
        ("extents", c_int64),
        ("extent", POINTER(ExtentStruct)),
        ("angles", POINTER(RowsStruct)),
        ("given", RowsStruct),
        ("out", RowsStruct),
        ("seconds", POINTER(c_double)),
        ("rings", c_void_p),
        ("heard", c_int64),
    )


MOST_TOPS = 20


class ChoiceStruct(Structure):
    """`NativeChoice` of interface.h."""

    _fields_ = (
        ("top_p", c_double),
        ("min_p", c_double),
        ("seed", c_uint64),
        ("position", c_int64),
        ("top_k", c_int64),
        ("seen", c_void_p),
        ("counts", c_void_p),
        ("biased", c_void_p),
        ("biases", c_void_p),
        ("allowed", c_void_p),
        ("barred", c_void_p),
        ("mask", c_void_p),
        ("probs", c_void_p),
        ("seen_count", c_int64),
        ("biased_count", c_int64),
        ("allowed_count", c_int64),
        ("barred_count", c_int64),
        ("temperature", c_float),
        ("repetition", c_float),
        ("frequency", c_float),
        ("presence", c_float),
        ("logprobs", c_int32),
        ("reserved", c_int32),
    )


class ChosenStruct(Structure):
    """`NativeChosen` of interface.h."""

    _fields_ = (
        ("token_id", c_int64),
        ("peak", c_float),
        ("logprob", c_float),
        ("tops", c_int64),
        ("top_ids", c_int64 * MOST_TOPS),
        ("top_logprobs", c_float * MOST_TOPS),
    )


# Result and arguments of each function of interface.h.
_FUNCTIONS = {
    "servery_digest": (c_char_p, ()),
    "servery_variants": (c_char_p, ()),
    "servery_open": (c_void_p, (c_char_p, c_int32, c_void_p)),
    "servery_close": (None, (c_void_p,)),
    "servery_advise_huge": (None, (c_void_p, c_int64)),
    "servery_packed_bytes": (c_int64, (c_void_p, _LINEAR)),
    "servery_pack_dense": (c_int32, (c_void_p, _LINEAR, RowsStruct)),
    "servery_pack_i8": (c_int32, (c_void_p, _LINEAR, RowsStruct, c_void_p, c_void_p)),
    "servery_pack_i4": (c_int32, (c_void_p, _LINEAR, RowsStruct, c_void_p, c_void_p, c_void_p)),
    "servery_linear": (c_int32, (c_void_p, _LINEAR, c_int64, _ROWS, _ROWS, _ROWS)),
    "servery_attention": (c_int32, (c_void_p, POINTER(AttentionStruct), c_int64, POINTER(ExtentStruct), _ROWS, _ROWS)),
    "servery_step": (c_int32, (c_void_p, POINTER(ModelStruct), POINTER(StepStruct))),
    "servery_sample": (c_int32, (c_void_p, c_int64, _ROWS, c_int64, c_void_p, c_void_p)),
    "servery_unpack_rows": (c_int32, (c_void_p, _LINEAR, c_int64, c_void_p, _ROWS)),
}


@cache
def open_library(path: Path | None = None) -> ctypes.CDLL:
    """The library at `path`, else the package's own. Raises `Unavailable`."""
    path = path or build.FOLDER / build.LIBRARY
    if not path.exists():
        raise Unavailable(f"they are not built; with a C++ compiler: {HOW_TO_BUILD}")
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise Unavailable(f"{path} cannot be loaded ({error}); build it anew: {HOW_TO_BUILD}") from error
    if library.servery_digest().decode() != build.digest():
        raise Unavailable(f"{path.name} was built from other sources; build it anew: {HOW_TO_BUILD}")
    return library


def variants(library: ctypes.CDLL) -> list[str]:
    """What this CPU can run, best first."""
    names: str = library.servery_variants().decode()
    return names.split(",")


class NativeContext:
    """Threads that compute together with one variant of the kernels. One thread at a time may use it."""

    def __init__(self, library: ctypes.CDLL, variant: str, threads: int) -> None:
        """Raises `Unavailable` for a variant that is not there."""
        cpus = _one_core_each(threads)
        array = None if cpus is None else (c_int32 * threads)(*cpus)
        self.library = library
        self.variant = variant
        self.threads = threads
        self.arena = Arena(library.servery_advise_huge)
        self.handle: int = library.servery_open(variant.encode(), threads, array) or 0
        if not self.handle:
            there = ", ".join(variants(library))
            raise Unavailable(f"there is no variant {variant} on this machine; there are {there}")

    def __del__(self) -> None:
        if getattr(self, "handle", 0):
            self.library.servery_close(self.handle)


def _one_core_each(threads: int) -> list[int] | None:
    """A core for each thread if this process has just so many; else the system does better than a fixed choice."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    return cores if len(cores) == threads else None


def rows_struct(address: int, kind: int, stride: int) -> RowsStruct:
    """Rows at `address` of numbers of type `kind`, `stride` numbers from one to the next."""
    return RowsStruct(address, kind, 0, stride)


__all__ = ["HOW_TO_BUILD", "LinearStruct", "NativeContext", "RowsStruct", "Unavailable", "byref", "open_library"]
