"""The models that are measured, in every engine's own format: made once, from seeded random numbers, in a folder."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf

from benchmarks.engine_cpu.environments import Environment
from benchmarks.random_model import QWEN3_473M, WEIGHTS, make_model
from servery.amuse import path as amuse_path
from tests.engine.gguf.exporter import export

NAMES = ("large", "amuse", "draft")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def checkpoint(cache: Path, name: str) -> Path:
    """The folder of a model in Hugging Face's layout."""
    if name != "large":
        return amuse_path({"amuse": "small", "draft": "draft"}[name])
    folder = cache / "large"
    if not (folder / WEIGHTS).exists():
        _begin(folder, "random weights")
        make_model(folder, QWEN3_473M)
        for file in _TOKENIZER:  # only so that peers that want one find one
            shutil.copy(amuse_path() / file, folder / file)
    return folder


def gguf_file(cache: Path, name: str, kind: str) -> Path:
    """The model for llama.cpp, all matrices of one type; without a tokenizer, because token ids are what it is given."""
    file = cache / "gguf" / f"{name}-{kind}.gguf"
    if not file.exists():
        _begin(file.parent, f"{file.name}")
        source, bare = checkpoint(cache, name), cache / "gguf" / f"{name}-bare"
        bare.mkdir(exist_ok=True)
        for part in ("config.json", "model.safetensors"):
            if not (bare / part).exists():
                (bare / part).symlink_to(source / part)
        vocab_size = json.loads((bare / "config.json").read_text())["vocab_size"]

        def without_tokenizer(writer: gguf.GGUFWriter) -> None:
            writer.add_tokenizer_model("no_vocab")
            writer.add_vocab_size(vocab_size)

        _finish(file.parent, file.name, lambda unfinished: export(bare, unfinished, kind, without_tokenizer))
    return file


def openvino_folder(cache: Path, name: str, weights: str, environment: Environment) -> Path:
    """The model for OpenVINO, its weights as they are ("bf16") or of 8 bits; converted by its own tool."""
    folder = cache / "openvino" / f"{name}-{weights}"
    if not (folder / "openvino_model.xml").exists():
        _begin(folder.parent, f"openvino {folder.name}")
        source = checkpoint(cache, name)
        format_ = [] if weights == "bf16" else ["--weight-format", weights]
        tool = environment.folder / "bin" / "optimum-cli"
        command = [str(tool), "export", "openvino", "--model", str(source), "--task", "text-generation-with-past"]
        unfinished = folder.with_name(f"{folder.name}.part")
        done = subprocess.run([*command, *format_, str(unfinished)], capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise RuntimeError(f"optimum-cli could not convert {source}:\n{done.stderr[-2000:]}")
        unfinished.rename(folder)
    return folder


def _begin(folder: Path, what: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    sys.stderr.write(f"making {what} in {folder} (once)\n")


def _finish(folder: Path, name: str, write: Any) -> None:
    """Write under another name first, so that what is there is whole."""
    unfinished = folder / f"{name}.part"
    write(unfinished)
    unfinished.rename(folder / name)
