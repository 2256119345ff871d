"""Kernels that cannot be launched are not opened, and the reason is told."""

import logging
import shutil
import sysconfig

import torch

from servery.engine.cuda import device_kernels
from servery.engine.cuda.device_kernels import CudaKernels, missing_for_launching, open_kernels


def test_without_a_c_compiler_or_pythons_headers_kernels_cannot_be_launched(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert missing_for_launching() == "there is no C compiler; install gcc, or name one in CC"
    monkeypatch.setenv("CC", "gcc")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert missing_for_launching() == f"Python's headers are not in {tmp_path}; install them (Debian: python3-dev)"
    (tmp_path / "Python.h").touch()
    assert missing_for_launching() is None


def test_a_gpu_without_them_is_left_to_torch_with_a_word(monkeypatch, caplog) -> None:
    monkeypatch.setattr(device_kernels, "missing_for_launching", lambda: "there is no C compiler")
    with caplog.at_level(logging.WARNING):
        assert open_kernels(torch.device("cuda"), torch.bfloat16) is None
    assert "there is no C compiler" in caplog.text
    assert isinstance(open_kernels(torch.device("cpu"), torch.float32), CudaKernels)
