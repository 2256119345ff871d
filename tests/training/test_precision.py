"""What fewer bits cost: measured on a tiny model, and written as a table."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from servery import amuse
from tests.engine import tiny_model
from training import card, precision


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    lines = [
        {"id": f"{stratum}{at}", "stratum": stratum, "prompt": f"{stratum} {at}:", "expected": " hello world", "scorer": "exact",
         "max_tokens": 3}
        for stratum in ("one", "two") for at in range(6)
    ]  # fmt: skip
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_every_precision_is_compared_with_the_first(tasks: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    checkpoint = tiny_model.save(tmp_path / "tiny")
    precisions: dict[str, dict[str, Any]] = {"bf16": {}, "int8 KV": {"kv_dtype": "int8"}}
    common = {"dtype": "bfloat16", "threads": 1}
    found = precision.measure(checkpoint, tasks, tmp_path / "runs", common, precisions)
    full, fewer = found["bf16"], found["int8 KV"]
    assert full["right"] == {"one": [0, 6], "two": [0, 6], "(all)": [0, 12]}
    assert set(full["perplexity"]) == set(fewer["perplexity"]) == {"one", "two", "(all)"}
    assert (full["settings"], fewer["settings"]) == (common, {**common, "kv_dtype": "int8"})
    assert full["weight_bytes"] == fewer["weight_bytes"]
    assert full["kv_bytes_per_token"] > fewer["kv_bytes_per_token"]
    assert 0 < fewer["divergence"]["(all)"]["value"] < 0.01
    assert (fewer["passes"], set(fewer["reasons"])) == (False, {"one", "two"})
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "bf16.jsonl", "int8-KV.gate.json", "int8-KV.jsonl",
    ]  # fmt: skip


def figures() -> dict[str, Any]:
    full = {"right": {"s": [90, 100], "(all)": [90, 100]}, "perplexity": {"(all)": 1.016}, "weight_bytes": 5139072,
            "kv_bytes_per_token": 2048}  # fmt: skip
    fewer = full | {
        "right": {"s": [81, 100], "(all)": [81, 100]},
        "divergence": {"(all)": {"value": 1.3e-5}},
        "agreement": {"(all)": {"value": 0.9998}},
        "passes": False,
        "lower_bounds": {"s": -0.17, "t": 0.001},
        "reasons": {"s": "a loss of 5% is not excluded"},
    }
    return {"precisions": {"bf16": full, "int4": fewer}}


def test_the_table_marks_where_the_gate_does_not_pass() -> None:
    assert precision.table(figures(), {"s": "a stratum"}) == [
        "| | bf16 | int4 |",
        "|---|---|---|",
        "| a stratum | 90.0 | 81.0 † |",
        "| **all questions** | **90.0** | **81.0** |",
        "| perplexity of the right answers | 1.0160 | 1.0160 |",
        "| KL divergence, nats per token | 0 | 1.3e-05 |",
        "| same first choice, % of tokens | 100 | 99.98 |",
        "| weights, bytes | 5,139,072 | 5,139,072 |",
        "| KV, bytes per token | 2,048 | 2,048 |",
        "| gate against bf16 | - | fail |",
        "| worst stratum: lower bound of the relative difference, % | - | -17.0 |",
    ]


def test_the_model_card_says_what_was_measured() -> None:
    """`python -m training.card --render` writes it anew."""
    results, measured = (json.loads(path.read_text()) for path in (card.RESULTS, precision.FIGURES))
    assert (amuse.HOME / "README.md").read_text() == card.render(results, measured)
