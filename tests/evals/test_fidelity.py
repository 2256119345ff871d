"""`servery eval fidelity`: figures from scores by hand, and the whole way on a tiny model."""

import json
import math
from pathlib import Path

import pytest
import torch

from servery import cli
from servery.engine.teacher_forcing import PassageScores
from servery.evals.estimate import Estimate
from servery.evals.fidelity import StratumFidelity, summary
from tests.engine import tiny_model

TEXT = "hello world, this is a small test of the engine and its tokens; fish. " * 30


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tiny_model.save(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def _private_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    Path("text.txt").write_text(TEXT)


def test_figures_of_a_stratum_are_per_token() -> None:
    scores = [
        PassageScores([1.0, 2.0, 3.0], [1.0, 2.0, 3.5], [0.0, 0.1, 0.5], [True, True, False]),
        PassageScores([2.0], [2.5], [0.2], [True]),
    ]
    found = summary("s", scores)
    assert (found.stratum, found.passages, found.tokens) == ("s", 2, 4)
    assert found.baseline_perplexity == pytest.approx(math.exp(8 / 4))
    assert found.candidate_perplexity == pytest.approx(math.exp(9 / 4))
    assert found.change == Estimate(pytest.approx(math.exp(1 / 4) - 1), None)
    assert found.divergence == Estimate(pytest.approx(0.8 / 4), None)
    assert found.agreement == Estimate(0.75, None)
    assert found.divergence_p99 is None


def test_intervals_are_of_the_change_itself_and_no_divergence_is_negative() -> None:
    scores = [PassageScores([1.0] * 4, [1.0 + 0.01 * at] * 4, [0.001 * at**4] * 4, [True] * 4) for at in range(6)]
    found = summary("s", scores)
    assert isinstance(found, StratumFidelity)
    assert found.change.interval is not None
    assert found.change.interval.low > 0
    assert found.change.value == pytest.approx(math.exp(0.025) - 1)
    assert found.divergence.interval is not None
    assert found.divergence.interval.low == 0.0 < found.divergence.value < found.divergence.interval.high


def test_a_perplexity_beyond_all_measure_is_still_a_number() -> None:
    assert summary("s", [PassageScores([1.0], [5000.0], [3.0], [False])]).candidate_perplexity < math.inf


def fidelity(tiny: Path, *words: str) -> int:
    sides = ["--baseline", str(tiny), "--candidate", str(tiny), "--threads", "1", "--window", "32"]
    return cli.main(["eval", "fidelity", "text.txt", *sides, *words])


def test_the_whole_way_to_figures_in_json(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fidelity(tiny, "--candidate-kv-dtype", "int8", "--json", "-") == 0
    found = json.loads(capsys.readouterr().out)
    (row,) = found["strata"]
    assert (found["schema"], found["texts"], row["stratum"]) == ("servery.eval.fidelity/1", "text.txt", "all")
    assert 0 < row["divergence"]["value"] < 1e-3
    assert row["divergence"]["interval"]["low"] < row["divergence"]["value"]
    assert row["agreement"]["value"] > 0.9
    assert row["baseline_perplexity"] == pytest.approx(row["candidate_perplexity"], rel=0.01)
    memory = [found[side]["kv_bytes_per_token"] for side in ("baseline", "candidate")]
    assert [found[side]["kv_dtype"] for side in ("baseline", "candidate")] == ["float32", "int8"]
    assert memory[0] > 3 * memory[1]
    assert found["candidate"]["settings"] == {"kv_dtype": "int8"}


def test_each_side_has_a_precision_of_its_own(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The baseline in int4, calibrated on a text of its own, the candidate in int8."""
    options = ["--baseline-quantize", "int4", "--baseline-group-size", "32", "--baseline-calibration", "text.txt"]
    assert fidelity(tiny, *options, "--candidate-quantize", "int8", "--json", "-") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["baseline"]["settings"] == {"quantize": "int4", "group_size": 32, "calibration": "text.txt"}
    assert found["candidate"]["settings"] == {"quantize": "int8"}
    assert [found[side]["weight_dtype"] for side in ("baseline", "candidate")] == ["int4", "int8"]
    assert found["baseline"]["weight_bytes"] < found["candidate"]["weight_bytes"]
    assert found["strata"][0]["divergence"]["value"] > 1e-5


def test_the_table_fits_a_narrow_terminal(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fidelity(tiny, "--candidate-kv-dtype", "fp8", "--limit", "6") == 0
    out = capsys.readouterr().out
    assert "…" not in out
    assert out.splitlines()[1].split() == ["stratum", "tokens", "ppl", "cand.", "change", "%", "KL", "per", "token", "same", "top", "%"]  # fmt: skip
    assert "bytes per token (fp8)" in out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "baseline and candidate are the same; let a --candidate-… option tell them apart"),
        (["--window", "1"], 2, "--window is 1; it must be at least 2"),
        (["--limit", "0"], 2, "--limit is 0; it must be at least 1"),
    ],
)
def test_what_cannot_be_compared_is_said(
    tiny: Path, words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fidelity(tiny, *words) == code
    assert message in capsys.readouterr().err


def test_a_file_with_nothing_to_score_says_why(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.txt").write_text("")
    assert fidelity(tiny, "--candidate-kv-dtype", "int8") == 2
    assert "text.txt has nothing to compare on" in capsys.readouterr().err


def test_models_with_other_tokens_cannot_be_compared(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny_model.save(tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = []
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    words = ["eval", "fidelity", "text.txt", "--baseline", str(tiny), "--candidate", str(other)]
    assert cli.main(words) == 2
    assert "only models with the same tokenizer and chat template can be compared" in capsys.readouterr().err


def test_vocabularies_of_other_sizes_cannot_be_compared(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny_model.save(tmp_path / "padded", vocab_size=384)
    words = ["eval", "fidelity", "text.txt", "--baseline", str(tiny), "--candidate", str(other), "--threads", "1"]
    assert cli.main(words) == 2
    assert "384 tokens; their distributions cannot be compared" in capsys.readouterr().err
