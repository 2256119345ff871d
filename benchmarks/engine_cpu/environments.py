"""Where each peer is installed: a virtual environment of its own below the cache, made by the commands told here."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

_COMMANDS = {
    "llama_cpp": (
        "{folder}/bin/pip install -C cmake.args='-DGGML_NATIVE=ON;-DLLAVA_BUILD=OFF' --no-binary llama-cpp-python "
        "llama-cpp-python==0.3.36 numpy"
    ),
    "openvino": (
        '{folder}/bin/pip install torch==2.13.0 "optimum-intel[openvino]" openvino-genai && '
        "{folder}/bin/pip uninstall -y torchvision"
    ),
}
_MODULES = {"llama_cpp": "llama_cpp", "openvino": "openvino, openvino_genai"}


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment; `name` is a key of the commands above."""

    name: str
    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def install(self) -> str:
        """The commands that make it."""
        return f"python3 -m venv {self.folder} && {_COMMANDS[self.name]}".format(folder=self.folder)

    def is_there(self) -> bool:
        """Whether it is made, and what is in it can be loaded."""
        if not self.python.exists():
            return False
        command = [str(self.python), "-c", f"import {_MODULES[self.name]}"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603 - its own commands


def environment(cache: Path, name: str) -> Environment:
    """The environment called so below a cache folder."""
    return Environment(name, cache / "venvs" / name)
