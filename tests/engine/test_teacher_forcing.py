"""Two models over the same text, against the definitions computed from the logits of transformers in float64."""

from collections.abc import Iterable
from pathlib import Path
from statistics import median

import pytest
import torch
from transformers import AutoModelForCausalLM

from servery.engine import teacher_forcing
from servery.engine.config import EngineConfig
from servery.engine.core import EngineCore
from servery.engine.errors import RequestFailed
from servery.engine.teacher_forcing import Passage, PassageScores, score
from tests.engine import checkpoints, tiny_model

PASSAGES = [
    Passage(tuple(7 + (3 * row * position) % 250 for position in range(5 + 17 * row)), first=1 + 2 * row)
    for row in range(5)
]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the same tokenizer that attends otherwise, and so computes something else."""
    return tiny_model.save(tmp_path_factory.mktemp("other"), rope_theta=50.0, num_hidden_layers=2)


def core_of(model: Path, **changes: object) -> EngineCore:
    return EngineCore(EngineConfig(model=model, threads=1, max_model_len=128, max_running=4, **changes))  # type: ignore[arg-type]


def scored(baseline: EngineCore, candidate: EngineCore) -> list[PassageScores]:
    return [one for group in score(baseline, candidate, PASSAGES) for one in group]


def log_probabilities(model: Path, passage: Passage) -> torch.Tensor:
    """float64 [scored, vocab]: what transformers predicts at the place of each scored token."""
    theirs = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.inference_mode():
        logits = theirs(torch.tensor([passage.tokens])).logits[0]
    return logits.double().log_softmax(-1)[passage.first - 1 : -1]


def close(found: Iterable[float], expected: torch.Tensor) -> bool:
    return torch.allclose(torch.tensor(list(found), dtype=torch.float64), expected, atol=2e-5)


def test_figures_are_those_of_the_definitions(tiny: Path, other: Path) -> None:
    for passage, found in zip(PASSAGES, scored(core_of(tiny), core_of(other)), strict=True):
        p, q = log_probabilities(tiny, passage), log_probabilities(other, passage)
        targets = torch.tensor(passage.tokens[passage.first :])
        at = torch.arange(len(targets))
        assert close(found.baseline, -p[at, targets])
        assert close(found.candidate, -q[at, targets])
        assert close(found.divergence, torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(-1))
        assert found.agrees == (p.argmax(-1) == q.argmax(-1)).tolist()
        assert max(found.divergence) > 0.01


@pytest.mark.parametrize(("step_tokens", "piece"), [(1, 1 << 21), (16, 1000), (100, 320 * 3)])
def test_how_it_is_cut_does_not_matter(
    tiny: Path, other: Path, step_tokens: int, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scored(core_of(tiny), core_of(other))
    monkeypatch.setattr(teacher_forcing, "_STEP_TOKENS", step_tokens)
    monkeypatch.setattr(teacher_forcing, "_PIECE_NUMBERS", piece)
    for found, expected in zip(scored(core_of(tiny), core_of(other)), whole, strict=True):
        assert close(found.candidate, torch.tensor(expected.candidate, dtype=torch.float64))
        assert close(found.divergence, torch.tensor(expected.divergence, dtype=torch.float64))
        assert found.agrees == expected.agrees


def test_passages_that_the_cache_does_not_hold_together_come_one_after_the_other(tiny: Path) -> None:
    small = core_of(tiny, kv_memory_bytes=8 * 16 * core_of(tiny).info.kv_bytes_per_token)
    assert small.info.num_blocks == 8
    groups = list(score(small, core_of(tiny), PASSAGES))
    assert [len(group) for group in groups] == [3, 1, 1]


def test_a_model_does_not_differ_from_itself(tiny: Path) -> None:
    for found in scored(core_of(tiny), core_of(tiny)):
        assert (found.baseline, set(found.divergence), set(found.agrees)) == (found.candidate, {0.0}, {True})


def test_the_kv_cache_counts_with_its_precision(tiny: Path) -> None:
    """More in fp8 than in int8, and in neither much."""
    total = {
        kv_dtype: sum(sum(one.divergence) for one in scored(core_of(tiny), core_of(tiny, kv_dtype=kv_dtype)))
        for kv_dtype in ("float32", "int8", "fp8")
    }
    assert 0.0 == total["float32"] < 10 * total["int8"] < total["fp8"] < 1.0


def test_logits_that_are_not_finite_are_an_error(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = core_of(tiny)
    monkeypatch.setattr(core.model, "logits", lambda hidden: torch.full((len(hidden), 320), float("nan")))
    with pytest.raises(RequestFailed, match="logits are not finite"):
        scored(core_of(tiny), core)


@pytest.mark.parametrize("name", ["gemma3", "deepseek_v2", "granite"])
def test_every_kind_of_attention_runs_over_a_smaller_kv(name: str, tmp_path: Path) -> None:
    """Windows, a latent in place of keys and values, a scale of its own. Where experts are chosen a few tokens jump."""
    model = checkpoints.save(checkpoints.MODELS[name](), tmp_path)
    passages = [Passage(tuple(token % 60 for token in one.tokens), one.first) for one in PASSAGES]
    for kv_dtype, limit in (("int8", 3e-4), ("fp8", 3e-2)):
        groups = score(core_of(model), core_of(model, kv_dtype=kv_dtype), passages)
        divergences = [value for group in groups for found in group for value in found.divergence]
        assert 0 < median(divergences) < limit
