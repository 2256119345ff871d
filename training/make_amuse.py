"""Make the amuse models from nothing: tokenizer, training, export, measurement and card, in one command.

``python -m training.make_amuse`` makes ``draft`` and ``small``; ``--size base`` makes the large one, which wants a GPU.
Every step that is finished is skipped, and a killed training goes on, so the command can be given again.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from training import tokenizer
from training.export import CONTEXT
from training.model import SHAPES
from training.train import RUNS


def _run(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", f"training.{module}", *arguments]
    print("$", "python -m", *command[2:], flush=True)
    subprocess.run(command, check=True)  # noqa: S603 - our own modules with our own arguments


def make_tokenizer(runs: Path) -> None:
    """Train the tokenizer unless it is there."""
    if not (runs / "tokenizer" / "tokenizer.json").exists():
        print("training the tokenizer", flush=True)
        tokenizer.save(tokenizer.train(), runs / "tokenizer", CONTEXT)


def main() -> None:
    """Make the wanted sizes, then measure them and write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", choices=sorted(SHAPES), help="may be given several times")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--eager", action="store_true", help="train without compiling the layers")
    parser.add_argument("--no-card", action="store_true", help="do not measure at the end")
    arguments = parser.parse_args()
    make_tokenizer(RUNS)
    threads = ["--threads", str(arguments.threads)]
    for size in arguments.size or ("draft", "small"):
        _run("train", "--size", size, *threads, *(["--eager"] if arguments.eager else []))
        _run("export", "--size", size)
    if not arguments.no_card:
        _run("card", *threads)


if __name__ == "__main__":
    main()
