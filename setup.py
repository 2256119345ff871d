"""How the package's own build compiles the native kernels; `pyproject.toml` says everything else.

Without a compiler the package installs without them, and the engine computes with torch.
"""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

NATIVE = Path(__file__).resolve().parent / "src" / "servery" / "engine" / "native"


def _builder() -> ModuleType:
    """The module that compiles, loaded from its file: the package is not installed yet."""
    spec = importlib.util.spec_from_file_location("servery_native_build", NATIVE / "build.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018 they are there or not together
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildNative(build_ext):
    """A library that is loaded by its path: no Python headers, no name with a Python's version in it."""

    def get_ext_filename(self, fullname: str) -> str:
        """Where the library `fullname` lies below the root of packages."""
        return os.path.join(*fullname.split(".")) + ".so"  # noqa: PTH118 distutils compares strings

    def build_extension(self, ext: Extension) -> None:
        """Compile, or say in one line why not."""
        builder = _builder()
        target = Path(self.get_ext_fullpath(ext.name))
        target.unlink(missing_ok=True)  # what an earlier build left is of other sources
        try:
            builder.build(target)
        except (builder.BuildError, OSError) as error:
            sys.stderr.write(f"servery: installed without native kernels: {error}.\n")


class Wheel(bdist_wheel):
    """A wheel for this machine and any Python: the library knows nothing of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python, ABI, platform."""
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("servery.engine.native._native", sources=[], optional=True)],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": Wheel},
)
