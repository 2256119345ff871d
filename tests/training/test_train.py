"""A micro model: resuming gives the uninterrupted result, the schedule decays, both optimizers learn."""

from pathlib import Path

import pytest
import torch

from servery import amuse
from training.model import SHAPES, Amuse, Shape
from training.muon import orthogonalise
from training.recipe import Recipe
from training.train import Run

MICRO = Shape(width=32, layers=1, heads=2, kv_heads=1, ffn=32)
RECIPE = Recipe(steps=4, batch_tokens=256, shard_dialogues=24, warmup_steps=2)


@pytest.fixture(autouse=True)
def micro(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "micro", MICRO)


def new_run(folder: Path) -> Run:
    return Run("micro", RECIPE, folder, amuse.path() / "tokenizer.json")


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = new_run(tmp_path / "whole")
    losses = [float(whole.advance()) for _ in range(4)]
    first = new_run(tmp_path / "cut")
    resumed = [float(first.advance()) for _ in range(2)]
    first.save()
    second = new_run(tmp_path / "cut")
    resumed += [float(second.advance()) for _ in range(2)]
    assert resumed == losses
    assert second.tokens == whole.tokens
    for ours, theirs in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_training_ends_at_the_asked_step_and_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "end_at_step").write_text("2")
    run = new_run(tmp_path)
    run.train()
    assert run.step == 2
    assert "micro 2/2" in capsys.readouterr().out
    assert '"step": 2' in (tmp_path / "log.jsonl").read_text()


def test_the_learning_rate_warms_up_stays_and_decays_to_zero() -> None:
    recipe = Recipe(steps=100, warmup_steps=10, decay_share=0.5)
    assert [recipe.scale(step, 100) for step in (0, 9, 50, 75, 100)] == [0.1, 1.0, 1.0, 0.5, 0.0]
    assert recipe.scale(25, 40) == pytest.approx(0.75)


def test_parameters_are_counted_right() -> None:
    for shape in (MICRO, SHAPES["draft"]):
        assert sum(p.numel() for p in Amuse(shape).parameters()) == shape.parameters


def test_shipped_shapes_are_within_their_budgets() -> None:
    assert 150_000 <= SHAPES["draft"].parameters <= 400_000
    assert 2_300_000 <= SHAPES["small"].parameters <= 2_700_000
    assert 10_000_000 <= SHAPES["base"].parameters <= 30_000_000


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 40), (2, 40, 16)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    singular = torch.linalg.svdvals(orthogonalise(torch.randn(shape)).float())
    assert singular.min() > 0.3
    assert singular.max() < 1.4
