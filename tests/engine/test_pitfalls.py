"""Known ways in which engines go wrong, one test each; those that the scheduler alone decides are in test_scheduler.

The numbers are those of the list that the design keeps: 6 randomness that depends on the batch, 7 persistent tensors
used as inputs, 8 hidden costs that grow with history, 9 features that are always on.
"""

from pathlib import Path

import pytest
import torch

from servery.engine.batch import Batch
from servery.engine.config import EngineConfig
from servery.engine.core import EngineCore
from servery.engine.detokenize import Detokenizer, StopMatcher
from servery.engine.request import NewRequest, SamplingParams
from servery.engine.tokenizer import Tokenizer


def generate(core: EngineCore, *requests: tuple[str, int]) -> dict[str, list[int]]:
    """Sampled tokens by request id; a request is an id and its seed."""
    for request_id, seed in requests:
        params = SamplingParams(temperature=1.0, max_tokens=20, ignore_eos=True)
        core.add(NewRequest(request_id=request_id, prompt=[9, 10, 11], params=params), seed)
    tokens: dict[str, list[int]] = {request_id: [] for request_id, _ in requests}
    while core.has_work:
        for output in core.step():
            tokens[output.request_id] += output.token_ids
    return tokens


def test_pitfall_6_a_seed_means_the_same_alone_and_in_company(tiny: Path) -> None:
    core = EngineCore(EngineConfig(model=tiny, threads=1))
    alone = generate(core, ("a", 42))["a"]
    torch.manual_seed(0)  # no global generator may matter
    company = generate(core, *[(f"other {seed}", seed) for seed in range(7)], ("a", 42))
    assert company["a"] == alone
    assert len({tuple(row) for row in company.values()}) == 8


def test_pitfall_7_a_step_s_inputs_do_not_change_when_the_books_do() -> None:
    tokens, blocks = [1, 2, 3], [4]
    batch = Batch.build([(tokens, 0, blocks)], 16)
    before = [batch.input_ids.clone(), batch.slots.clone(), batch.block_tables.clone()]
    tokens[:] = [7, 8, 9]
    blocks[:] = [0]
    Batch.build([([5], 3, [4])], 16)
    after = [batch.input_ids, batch.slots, batch.block_tables]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_pitfall_8_text_costs_the_same_for_the_first_and_the_last_token(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each token is looked at once: 2,000 tokens, 2,000 look-ups, and no decoding of what came before."""
    tokenizer = Tokenizer.load(tiny)
    looked_up: list[int] = []
    known = tokenizer.token_bytes
    monkeypatch.setattr(tokenizer, "token_bytes", lambda token_id: looked_up.append(token_id) or known(token_id))
    monkeypatch.setattr(tokenizer, "decode", None)
    detokenizer, matcher = Detokenizer(tokenizer), StopMatcher(("never",))
    ids = tokenizer.encode("hello world " * 200)[:2000]
    text = "".join(matcher.push(detokenizer.push(token_id)).text for token_id in ids)
    assert text.startswith("hello world hello")
    assert len(looked_up) <= len(ids)


def test_pitfall_9_nothing_that_changes_results_is_on_unless_asked_for(tiny: Path) -> None:
    core = EngineCore(EngineConfig(model=tiny, threads=1))
    generate(core, ("a", 1))
    assert core.info.dtype == "float32"
    assert core.stats().scheduler.drafted_tokens == 0
