"""How often the draft's first choice is the default's: ``python -m training.agreement --count 30``.

The default answers held-out questions greedily; at each token of its answer the draft is asked for its own choice.
"""

import argparse
import json
import os
from itertools import islice
from pathlib import Path

import torch

from servery import amuse
from training.chat import END
from training.decode import greedy, prompt
from training.evaluate import greedy_hits
from training.export import read
from training.mix import KINDS, Dialogue, examination
from training.model import Amuse
from training.packing import Example
from training.tasks.scene import Kind
from training.tokenizer import load, token_id


def first_turns(kind: Kind, count: int) -> list[Dialogue]:
    """Held-out conversations of one kind, cut after their first question."""
    return [Dialogue(one.turns[:1], one.system, one.tools) for one in islice(examination(kind, 6 * count), count)]


def agreement(draft: Amuse, default: Amuse, prompts: list[list[int]], end: int, limit: int = 300) -> tuple[int, int]:
    """Tokens on which the draft agrees, and all tokens, over the default's own greedy answers."""
    answers = greedy(default, prompts, end, limit)
    examples = [
        Example(p + a.tokens, [False] * len(p) + [True] * len(a.tokens)) for p, a in zip(prompts, answers, strict=True)
    ]
    agreed = 0
    for example, hits in zip(examples, greedy_hits(draft, examples), strict=True):
        agreed += sum(hit for hit, answer in zip(hits, example.answers, strict=True) if answer)
    return agreed, sum(len(a.tokens) for a in answers)


def report(count: int) -> dict[str, float]:
    """Percent of agreement per kind, and over all tokens under ``all``."""
    draft, default = read(amuse.path("draft")), read(amuse.path("small"))
    tokenizer = load(amuse.path("small") / "tokenizer.json")
    end, totals, found = token_id(tokenizer, END), [0, 0], {}
    for kind in KINDS:
        prompts = [prompt(tokenizer, one) for one in first_turns(kind, count)]
        agreed, tokens = agreement(draft, default, prompts, end)
        found[kind.name] = round(100 * agreed / tokens, 1)
        totals = [totals[0] + agreed, totals[1] + tokens]
    return found | {"all": round(100 * totals[0] / totals[1], 1)}


def main() -> None:
    """Print the agreement of each kind, or write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=30, help="answers per kind")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    figures = report(arguments.count)
    for name, value in figures.items():
        print(f"{name:14} {value:5.1f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
