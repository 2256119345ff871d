"""By the loop amuse says what it says by torch: the likeliest token at every position, but for ties within rounding."""

import gzip
import json

import pytest
import torch

from servery import amuse
from servery.engine.architecture import ModelConfig
from servery.engine.batch import Batch
from servery.engine.chat_template import ChatTemplate
from servery.engine.kv import KVCache
from servery.engine.loader import load_model
from servery.engine.tokenizer import Tokenizer
from tests.engine.native.kernels import best_context

BLOCK, TOGETHER, LONGEST = 16, 16, 1024


def conversations(every):
    """The shipped tasks' prompts, each with its answer after it: every one at which greedy decoding can arrive."""
    folder = amuse.path()
    tokenizer, template = Tokenizer.load(folder), ChatTemplate.load(folder)
    with gzip.open(amuse.TASKS, "rt") as lines:
        tasks = [json.loads(line) for at, line in enumerate(lines) if at % every == 0]
    for task in tasks:
        prompt = template.encode(tokenizer, task["messages"])
        yield [*prompt, *tokenizer.encode(str(task["expected"]), add_special_tokens=False)][:LONGEST]


def logits_of(model, group):
    blocks = LONGEST // BLOCK
    cache = KVCache(model.config, blocks * len(group), BLOCK, model.dtype)
    rows = [(tokens, 0, range(at * blocks, (at + 1) * blocks)) for at, tokens in enumerate(group)]
    return model.logits(model.forward(Batch.build(rows, BLOCK), cache))


def compare(every):
    """Positions, those where the likeliest token differs, and the largest difference of a logit."""
    torch.set_num_threads(1)
    path = amuse.path()
    config = ModelConfig.load(path)
    oracle, native = (
        load_model(path, config, torch.float32),
        load_model(path, config, torch.float32, native=best_context()),
    )
    assert native.loop is not None
    texts = list(conversations(every))
    positions, differing, largest = 0, 0, 0.0
    for at in range(0, len(texts), TOGETHER):
        theirs, ours = (logits_of(model, texts[at : at + TOGETHER]) for model in (oracle, native))
        off = (theirs - ours).abs().amax(1)
        chosen = ours.argmax(1, keepdim=True)
        lead = theirs.amax(1) - theirs.gather(1, chosen)[:, 0]
        assert (lead <= 2 * off).all(), "another token is chosen only where rounding can turn the order"
        assert (off <= 1e-4 * theirs.abs().amax(1)).all()
        positions, differing = positions + len(chosen), differing + int((lead > 0).sum())
        largest = max(largest, float(off.max()))
    return positions, differing, largest


def test_a_sample_of_the_tasks_is_answered_alike():
    positions, differing, _ = compare(every=400)
    assert positions > 1000
    assert differing <= positions // 1000


@pytest.mark.slow
def test_every_fifteenth_task_is_answered_alike():
    positions, differing, largest = compare(every=15)
    assert differing <= positions // 1000, f"{differing} of {positions} differ; logits by up to {largest}"
