"""Make the amuse models from nothing: tokenizer, training, export, measurement and card, in one command.

``python -m training.make_amuse`` makes ``draft`` and ``small``; ``--size base`` makes the large one, which wants a GPU.
Every step that is finished is skipped, and a killed training goes on, so the command can be given again.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tokenizers import Tokenizer

from servery import amuse
from training import tokenizer
from training.export import CONTEXT
from training.model import SHAPES
from training.train import RUNS


def _run(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", f"training.{module}", *arguments]
    print("$", "python -m", *command[2:], flush=True)
    subprocess.run(command, check=True)  # noqa: S603 - our own modules with our own arguments


def make_tokenizer(runs: Path, fresh: bool) -> None:
    """Take the shipped tokenizer, which all sizes share, or train one when there is none or a fresh one is wanted."""
    file = runs / "tokenizer" / "tokenizer.json"
    shipped = [amuse.path(size) / "tokenizer.json" for size in amuse.available()]
    if file.exists():
        return
    print("training the tokenizer" if fresh or not shipped else f"taking the tokenizer {shipped[0]}", flush=True)
    chosen = tokenizer.train() if fresh or not shipped else Tokenizer.from_file(str(shipped[0]))
    tokenizer.save(chosen, file.parent, CONTEXT)


def main() -> None:
    """Make the wanted sizes, then measure them and write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", choices=sorted(SHAPES), help="may be given several times")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--eager", action="store_true", help="train without compiling the layers")
    parser.add_argument("--fresh-tokenizer", action="store_true", help="train it anew; the sizes must then match again")
    parser.add_argument("--no-card", action="store_true", help="do not measure at the end")
    arguments = parser.parse_args()
    make_tokenizer(RUNS, arguments.fresh_tokenizer)
    threads = ["--threads", str(arguments.threads)]
    for size in arguments.size or ("draft", "small"):
        _run("train", "--size", size, *threads, *(["--eager"] if arguments.eager else []))
        _run("export", "--size", size)
    if not arguments.no_card:
        _run("card", *threads)


if __name__ == "__main__":
    main()
