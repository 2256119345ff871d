"""Memory that is refused after it was planned: by a limit that no file tells of, on a real process."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from servery.engine.config import EngineConfig
from servery.engine.errors import NotEnoughMemory
from servery.engine.memory import KVPlan
from servery.engine.shortage import is_shortage, killed, shortages, step_advice

PLAN = KVPlan(
    num_blocks=1, block_size=16, max_model_len=16, kv_bytes=1 << 30, weight_bytes=3 << 30, adapter_bytes=1 << 20
)
CONFIG = EngineConfig(model=Path("m"))

# More address space than now may be had, in bytes, and the memory for the KV cache, on the command line.
LIMITED = """
import resource, sys
from pathlib import Path
from servery.engine.config import EngineConfig
from servery.engine.core import EngineCore
from servery.engine.errors import NotEnoughMemory

taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = taken + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    EngineCore(EngineConfig(model=Path(sys.argv[1]), threads=1, max_model_len=256, kv_memory_bytes=int(sys.argv[3])))
except NotEnoughMemory as error:
    print(error.needed_bytes, error)
"""


@pytest.mark.parametrize(
    ("room", "kv_bytes", "said"),
    [
        (
            256 << 20,
            1 << 30,
            " MiB for the KV cache, 512 MiB for the process), and the system refused 10737",
        ),
        (1 << 12, 1 << 20, "model.safetensors cannot be mapped: the system refuses its "),
    ],
    ids=["the KV cache", "the files"],
)
def test_a_limit_of_the_user_is_told_with_bytes_and_flags(tiny: Path, room: int, kv_bytes: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tiny), str(room), str(kv_bytes)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert said in done.stdout, done.stdout + done.stderr
    assert "`ulimit -v`" in done.stdout


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.EIO, "Input/output error"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_every_way_in_which_memory_is_refused_is_known(error: Exception, expected: bool) -> None:
    assert is_shortage(error) == expected


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 77 bytes."), "77 bytes of it"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0"), "2.00 GiB of it"),
        (MemoryError(), "a part of it"),
    ],
)
def test_what_was_planned_and_what_was_refused_are_both_told(error: Exception, refused: str) -> None:
    with pytest.raises(NotEnoughMemory) as caught, shortages(CONFIG, PLAN):
        raise error
    needs = "4832886784 bytes (3 GiB for weights, 1 GiB for the KV cache, 1 MiB for adapters, 512 MiB for the process)"
    assert str(caught.value).startswith(f"not enough memory: the model needs {needs}, and the system refused {refused}")
    assert "lower --kv-memory or --max-model-len, or take --kv-dtype int8" in str(caught.value)
    assert caught.value.needed_bytes == PLAN.needed_bytes


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), shortages(CONFIG, PLAN):
        raise RuntimeError("shapes")


def test_a_killed_process_is_told_with_what_it_needed() -> None:
    assert killed(CONFIG, str(PLAN)).startswith("the engine process was killed while it loaded the model; when")
    assert f"The model needs {PLAN.needed_bytes} bytes (3 GiB for weights" in killed(CONFIG, str(PLAN))


def test_a_step_that_finds_no_memory_on_a_gpu_says_which_options_to_lower_and_to_what() -> None:
    error = RuntimeError("CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 79 GiB")
    told = step_advice(error, kv_bytes=8 << 30, max_step_tokens=8192)
    assert told.endswith(f" Lower --kv-memory to {13 << 29} bytes, or --max-step-tokens below 8192.")
    little = step_advice(MemoryError("tried to allocate 20.00 MiB"), kv_bytes=8 << 30, max_step_tokens=512)
    assert f"Lower --kv-memory to {7 << 30} bytes" in little
    assert step_advice(RuntimeError("an illegal memory access"), kv_bytes=1, max_step_tokens=1) == ""
