"""Measurements work on tiny models: they count what they say, and every claim gets its figures."""

import sys
from pathlib import Path

import pytest

from benchmarks import result as results
from benchmarks.claims import __main__ as program
from benchmarks.claims.claim import stated
from benchmarks.claims.kv_size import held_blocks, taken
from benchmarks.claims.kv_waste import chat
from benchmarks.claims.measurement import Measurement, Unmeasurable
from benchmarks.claims.measurements import MEASUREMENTS
from benchmarks.claims.prefix import conversations
from benchmarks.claims.prefix import held_blocks as held_by
from benchmarks.claims.stage import Stage
from benchmarks.claims.transformers_batches import TransformersBatches
from benchmarks.continuous_batching import workload
from servery import amuse
from servery.bench.span import Span
from servery.engine.architecture import ModelConfig
from servery.engine.llm import LLM
from servery.engine.request import SamplingParams


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.mktemp("models"), is_tiny=True)


@pytest.mark.slow
def test_transformers_batches_give_the_answers_of_this_engine() -> None:
    requests = workload(3, 1000, answers=Span(3, 7))
    llm = LLM(amuse.path("draft"), dtype="float32", kv_memory_bytes=16 << 20, threads=1)
    ours = [
        llm.generate([each.prompt], SamplingParams(temperature=0, max_tokens=each.params.max_tokens, ignore_eos=True),
                     progress=False)[0].completions[0].token_ids
        for each in requests
    ]  # fmt: skip
    assert TransformersBatches(amuse.path("draft"), "float32").answer(requests) == [list(each) for each in ours]


def test_the_cache_takes_what_the_formula_says() -> None:
    found = taken(ModelConfig.load(amuse.path("draft")), 64)
    assert found["tensor_bytes_per_token"] == found["formula_bytes_per_token"] == 2 * 2 * 32 * 2 * 2
    assert found["formula_with_all_heads"] == 2 * found["formula_bytes_per_token"]


def test_blocks_are_held_for_what_was_computed(stage: Stage) -> None:
    assert held_blocks(stage, (30, 45, 12)) == 2 + 3 + 1


def test_a_shared_prompt_is_held_once(stage: Stage) -> None:
    asked = conversations(stage, 4)
    held = {is_on: held_by(stage.engine(stage.draft, prefix_cache=is_on), asked) for is_on in (False, True)}
    assert held[True] < held[False] / 2


def test_chat_traffic_fits_into_the_context(stage: Stage) -> None:
    core = stage.engine(stage.draft)
    lengths = [len(each.prompt) + (each.params.max_tokens or 0) for each in chat(200, core)]
    assert max(lengths) <= core.info.max_model_len
    assert 1000 < sum(lengths) / len(lengths) < 1600


def test_what_cannot_be_measured_now_is_left_out_with_its_reason(stage: Stage, tmp_path: Path) -> None:
    def busy(_: Stage) -> dict[str, int]:
        raise Unmeasurable("this client sent requests late")

    chosen = {
        "busy": Measurement("busy", 1.0, "A run.", busy, lambda figures: {}),
        "quiet": Measurement("quiet", 1.0, "A run.", lambda stage: {"figure": 1}, lambda figures: {}),
    }
    kept = tmp_path / "runs.json"
    for _ in range(2):  # the second has nothing left to measure but what was left out
        found = program.measure(stage, chosen, kept)
        assert found["runs"] == {"quiet": {"figure": 1}}
        assert found["left_out"] == {"busy": "this client sent requests late"}


@pytest.mark.slow
def test_the_whole_run_measures_every_claim_and_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    kept = tmp_path / "runs.json"
    monkeypatch.setattr(sys, "argv", ["claims", "--tiny", "--docs", str(tmp_path), "--runs", str(kept)])
    program.main()
    rendered = (tmp_path / "claims.md").read_text()
    assert [claim.says for topic in stated() for claim in topic.claims if claim.says not in rendered] == []
    assert len(list((tmp_path / "claims").iterdir())) == 7
    monkeypatch.setattr(sys, "argv", ["claims", "--render", "--docs", str(tmp_path / "again")])
    (tmp_path / "again").mkdir()
    program.main()
    assert (tmp_path / "again" / "claims.md").read_text() == rendered
    monkeypatch.setattr(sys, "argv", ["claims", "--only", "nothing"])
    with pytest.raises(SystemExit, match="there is no measurement nothing; there are arithmetic, "):
        program.main()
    assert set(program.measure(Stage(tmp_path, is_tiny=True), MEASUREMENTS, kept)["runs"]) == set(MEASUREMENTS)
