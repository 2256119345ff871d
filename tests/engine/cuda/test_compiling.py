"""What the interpreter runs is what a GPU can be given: every kernel compiles for Hopper, within what a program may have."""

import os
import subprocess
import sys

import pytest

SHARED_BYTES = 227 << 10
STACK_BYTES = 512


@pytest.mark.slow
def test_every_kernel_compiles_for_hopper(tmp_path) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.engine.cuda.compile_all"]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    launches = [line.split() for line in output.splitlines()]
    names = {name for name, *_ in launches}
    assert names >= {"attend_rows", "sum_parts", "multiply", "sum_splits", "decode", "multiply_chosen", "race_nucleus"}
    assert [line for line in launches if int(line[1]) > SHARED_BYTES or int(line[3]) > STACK_BYTES] == []
