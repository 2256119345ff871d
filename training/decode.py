"""Greedy decoding of many prompts at once, for checks that need whole answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from training.chat import ASSISTANT, END, segments
from training.mix import Dialogue
from training.model import Amuse, Cache
from training.tokenizer import token_id
from training.train import BLOCKED


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote; ``finished`` says that it wrote the end token before the limit."""

    tokens: list[int]
    finished: bool


def prompt(tokenizer: Tokenizer, conversation: Dialogue) -> list[int]:
    """The tokens of a conversation up to the last answer, which the model has to write."""
    turns = list(segments(conversation))[:-1]
    end = token_id(tokenizer, END)
    tokens: list[int] = []
    for opening, text in turns:
        tokens += [token_id(tokenizer, opening), *tokenizer.encode(text).ids, end]
    return [*tokens, token_id(tokenizer, ASSISTANT)]


@torch.inference_mode()
def greedy(model: Amuse, prompts: Sequence[list[int]], end: int, limit: int) -> list[Answer]:
    """Answers of at most ``limit`` tokens; prompts are padded on the left and finished rows leave the batch."""
    longest = max(map(len, prompts))
    tokens = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    padding = torch.tensor([longest - len(p) for p in prompts])
    positions = (torch.arange(longest)[None] - padding[:, None]).clamp(min=0)
    written: list[list[int]] = [[] for _ in prompts]
    finished = [False] * len(prompts)
    alive = torch.arange(len(prompts))
    cache = Cache()
    for _ in range(limit):
        hidden = model(tokens, positions, _bias(positions, padding, longest), cache)
        chosen = model.logits(hidden[:, -1]).argmax(-1)
        for row, token in zip(alive.tolist(), chosen.tolist(), strict=True):
            written[row].append(token)
            finished[row] = token == end
        going = (chosen != end).nonzero()[:, 0]
        if len(going) == 0:
            break
        cache.keep(going)
        alive, padding, chosen = alive[going], padding[going], chosen[going]
        tokens, positions = chosen[:, None], positions[going, -1:] + 1
        longest += 1
    return [Answer(tokens, done) for tokens, done in zip(written, finished, strict=True)]


def _bias(positions: torch.Tensor, padding: torch.Tensor, total: int) -> torch.Tensor:
    """[B, 1, L, T]: blocked ahead of a position and in the padding before a prompt."""
    slots = torch.arange(total)[None, None] - padding[:, None, None]
    allowed = (slots >= 0) & (slots <= positions[:, :, None])
    return torch.zeros(allowed.shape).masked_fill(~allowed, BLOCKED)[:, None]
