"""Exact match on held-out conversations: ``python -m training.evaluate --size small --count 300``.

A turn counts when every token of its only right answer, with the end token, is the most likely one given the prompt and
the answer so far. That is the same as greedy decoding of the whole answer, in one forward pass. Earlier turns of a
conversation are given as they should be.
"""

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from servery import amuse
from training.export import read
from training.mix import KINDS, Dialogue, examination
from training.model import SHAPES, Amuse
from training.packing import Example, encode
from training.tokenizer import load
from training.train import attention_bias

_BATCH_TOKENS = 8192


def _batches(examples: Sequence[Example]) -> Iterator[list[Example]]:
    pending: list[Example] = []
    for example in sorted(examples, key=lambda e: len(e.tokens)):
        if pending and (len(pending) + 1) * len(example.tokens) > _BATCH_TOKENS:
            yield pending
            pending = []
        pending.append(example)
    if pending:
        yield pending


def _padded(examples: list[Example]) -> tuple[Tensor, Tensor, Tensor]:
    length = max(len(e.tokens) for e in examples)
    tokens = torch.zeros(len(examples), length, dtype=torch.long)
    documents, answers = torch.zeros_like(tokens), torch.zeros_like(tokens, dtype=torch.bool)
    for row, example in enumerate(examples):
        size = len(example.tokens)
        tokens[row, :size] = torch.tensor(example.tokens)
        answers[row, :size] = torch.tensor(example.answers)
        documents[row, :size] = 1
    return tokens, documents, answers


@torch.inference_mode()
def greedy_hits(model: Amuse, examples: list[Example]) -> list[list[bool]]:
    """Per example, for each token whether it is the model's first choice (the first token never is)."""
    tokens, documents, _ = _padded(examples)
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    hidden = model(tokens, positions, attention_bias(documents))
    hits = model.logits(hidden).argmax(-1)[:, :-1] == tokens[:, 1:]
    return [[False, *row[: len(e.tokens) - 1]] for row, e in zip(hits.tolist(), examples, strict=True)]


def turn_scores(example: Example, hits: list[bool]) -> list[bool]:
    """For each answer of a conversation whether all its tokens are hits."""
    scores: list[bool] = []
    inside = False
    for answer, hit in zip(example.answers, hits, strict=True):
        if answer and not inside:
            scores.append(True)
        if answer:
            scores[-1] = scores[-1] and hit
        inside = answer
    return scores


def exact_match(model: Amuse, tokenizer: Tokenizer, conversations: Sequence[Dialogue]) -> list[bool]:
    """Whether each answer of the conversations is exact, in order of length."""
    scores: list[bool] = []
    for batch in _batches(encode(tokenizer, conversations)):
        for example, hits in zip(batch, greedy_hits(model, batch), strict=True):
            scores += turn_scores(example, hits)
    return scores


def report(folder: Path, count: int) -> dict[str, dict[str, float]]:
    """Percent of exact answers of each kind, by stratum, with at least ``count`` answers each."""
    model, tokenizer = read(folder), load(folder / "tokenizer.json")
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for kind in KINDS:
        scores = exact_match(model, tokenizer, [*examination(kind, count)])
        found[kind.stratum][kind.name] = round(100 * sum(scores) / len(scores), 1)
    return dict(found)


def mean(kinds: dict[str, float]) -> float:
    """The plain mean over the kinds of a stratum."""
    return sum(kinds.values()) / len(kinds)


def main() -> None:
    """Print the table of one size, or write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SHAPES), default="small")
    parser.add_argument("--folder", type=Path, help="a published model elsewhere")
    parser.add_argument("--count", type=int, default=300, help="answers per kind")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    figures = report(arguments.folder or amuse.path(arguments.size), arguments.count)
    for stratum, kinds in figures.items():
        print(f"{stratum:12} {mean(kinds):5.1f}   " + "  ".join(f"{name} {value:.0f}" for name, value in kinds.items()))
    print(f"{'mean':12} {sum(map(mean, figures.values())) / len(figures):5.1f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
