"""Batched decoding with a cache writes what one forward pass per token would write; scores follow answers."""

import torch

from training.decode import greedy
from training.evaluate import greedy_hits, turn_scores
from training.loops import prompts, repeats
from training.model import Amuse, Shape
from training.packing import Example
from training.train import attention_bias

TINY = Shape(width=32, layers=2, heads=4, kv_heads=2, ffn=32, vocab=40)


def naive(model: Amuse, prompt: list[int], end: int, limit: int) -> list[int]:
    tokens = list(prompt)
    while len(tokens) < len(prompt) + limit:
        ids = torch.tensor([tokens])
        hidden = model(ids, torch.arange(len(tokens))[None], attention_bias(torch.ones_like(ids)))
        tokens.append(int(model.logits(hidden[0, -1]).argmax()))
        if tokens[-1] == end:
            break
    return tokens[len(prompt) :]


def tiny() -> Amuse:
    torch.manual_seed(1)
    model = Amuse(TINY)
    torch.nn.init.normal_(model.embed_tokens.weight, std=1.0)
    return model.eval()


def test_batched_decoding_equals_one_at_a_time() -> None:
    model, asked = tiny(), [[3, 4, 5], [7], [9, 8, 7, 6, 5, 4, 3]]
    end = naive(model, asked[0], -1, 4)[-1]
    with torch.inference_mode():
        expected = [naive(model, p, end, 12) for p in asked]
    answers = greedy(model, asked, end, 12)
    assert [a.tokens for a in answers] == expected
    assert [a.finished for a in answers] == [e[-1] == end for e in expected]


def test_greedy_hits_find_the_greedy_answer() -> None:
    model, asked = tiny(), [3, 4, 5]
    [answer] = greedy(model, [asked], -1, 6)
    example = Example(asked + answer.tokens, [False] * 3 + [True] * 6)
    [hits] = greedy_hits(model, [example])
    assert turn_scores(example, hits) == [True]
    hits[-1] = False
    assert turn_scores(example, hits) == [False]


def test_each_answer_is_scored_by_itself() -> None:
    example = Example([0] * 7, [False, True, True, False, True, False, True])
    assert turn_scores(example, [False, True, True, False, False, True, True]) == [True, False, True]


def test_repetition_is_found_and_order_is_not() -> None:
    assert repeats([1, 2, 3] + [7] * 48)
    assert repeats([1, 2, 3] + [4, 5, 6] * 20)
    assert repeats(list(range(100, 140)) * 3)
    assert not repeats(list(range(400)))
    assert not repeats([7] * 20)


def test_loop_prompts_are_varied_and_include_the_empty_one() -> None:
    asked = [one.turns[0].question for one in prompts(200)]
    assert "" in asked
    assert len(set(asked)) > 180
