"""The pure parts of the comparison with other engines: who takes part, what is aimed at, what counts as reached."""

import json
import sys

import pytest

from benchmarks.engine_cpu.__main__ import table
from benchmarks.engine_cpu.contest import Missing, _without_prompts, start
from benchmarks.engine_cpu.environments import environment
from benchmarks.engine_cpu.rows import OURS, ROWS, Runs, Work, chosen, groups, verdicts
from benchmarks.engine_cpu.worker import prompts, serve

ROW = next(row for row in ROWS if row.key == "decode-8-int8")


def runs(**rates: list[float]) -> Runs:
    found = Runs(read_per_s=[5e9, 7e9, 6e9])
    names = [each.name for each in ROW.contenders]
    for name, given in rates.items():
        found.rates[next(each for each in names if each.startswith(name))] = given
    return found


def test_every_row_has_a_target_for_each_family_of_its_peers():
    assert [row.key for row in ROWS if {peer.family for peer in row.peers} != set(row.targets)] == []
    assert len({row.key for row in ROWS}) == len(ROWS)


def test_the_ratio_is_the_median_over_rounds_against_the_familys_fastest():
    measured = runs(servery=[40.0, 90.0, 80.0], llama=[20.0, 20.0, 20.0], openvino=[30.0, 31.0, 29.0])
    genai = next(each.name for each in ROW.peers if each.name.endswith("genai"))
    measured.rates[genai] = [50.0, 45.0, 40.0]
    llama, openvino = verdicts(ROW, measured, 24e9)
    assert (llama.ratio, llama.ratios, llama.is_reached) == (4.0, (2.0, 4.5), True)
    assert (openvino.peer, openvino.ratio, openvino.ours_per_s, openvino.mbu) == (genai, 2.0, 80.0, 0.25)


def test_a_row_with_a_share_of_the_bandwidth_to_reach_needs_both():
    row = next(row for row in ROWS if row.mbu_target)
    measured = Runs({each.name: [2.0 if each is row.ours else 1.0] for each in row.contenders}, [10e9])
    assert [verdicts(row, measured, bandwidth)[0].is_reached for bandwidth in (11e9, 20e9)] == [True, False]
    assert [*table(verdicts(row, measured, 20e9)).columns[-1].cells] == ["NOT REACHED"]


def test_what_a_peer_did_once_stands_for_every_round():
    row = next(row for row in ROWS if row.whole)
    measured = Runs({row.ours.name: [30.0, 60.0, 90.0], row.peers[0].name: [3.0]})
    assert [(each.ratio, each.ratios) for each in verdicts(row, measured, 1.0)] == [(20.0, (10.0, 30.0))]


def test_rows_and_peers_are_chosen_by_name():
    assert {row.key for row in chosen(["decode-1", "draft"], None)} == {
        "decode-1-bf16",
        "decode-1-int8",
        "decode-1-int4",
        "draft",
    }
    assert {peer.family for row in chosen(None, ["openvino"]) for peer in row.peers} == {"openvino", OURS}
    with pytest.raises(ValueError, match="no row is called decod-1; there are decode-1-bf16"):
        chosen(["decod-1"], None)


def test_rows_of_one_model_and_type_share_their_workers():
    assert [{row.ours.weights for row in group} for group in groups(ROWS) if group[0].ours.model == "large"] == [
        {"bf16"},
        {"int8"},
        {"int4"},
    ]


def test_a_missing_peer_is_told_with_what_installs_it(tmp_path):
    with pytest.raises(
        Missing, match=r"llama_cpp is not installed; this installs it:\n  python3 -m venv .*-DGGML_NATIVE=ON"
    ):
        start(ROW.peers[0], tmp_path, [0], [ROW.work])
    assert str(tmp_path) in environment(tmp_path, "openvino").install


def test_prompts_differ_from_their_first_token_and_are_in_the_vocabulary():
    rows = prompts(32, 40, 1000)
    assert len({row[0] for row in rows}) == 32
    assert all(8 <= token < 1000 for row in rows for token in row)


def test_a_worker_answers_each_order_with_what_it_took(monkeypatch, capsys):
    class Counting:
        version = "counting 1"
        read_bytes = 0

        def __init__(self, model: str) -> None:
            self.model = model

        def prefill(self, sequences: int, tokens: int) -> None:
            self.read_bytes += sequences * tokens

        def decode(self, steps: int) -> None:
            self.read_bytes += steps

    orders = [{"do": "prefill", "sequences": 3, "tokens": 5}, {"do": "decode", "steps": 2}]
    monkeypatch.setattr("sys.argv", ["worker", '{"model": "m"}'])
    monkeypatch.setattr("sys.stdin", [json.dumps(order) for order in orders])
    stdout = sys.stdout
    serve(Counting)
    monkeypatch.setattr("sys.stdout", stdout)
    ready, *answers = map(json.loads, capsys.readouterr().out.splitlines())
    assert ready["version"] == "counting 1"
    assert [(each["tokens"], each["read_bytes"]) for each in answers] == [(15, 15), (6, 2)]


def test_prompts_do_not_count_where_an_engine_has_no_steps():
    class Slow:
        def ask(self, do: str, sequences: int, prompt: int, tokens: int) -> dict[str, float]:
            return {"tokens": sequences * tokens, "wall_s": 60 + tokens, "cpu_s": 50 + tokens, "read_bytes": 0}

    assert _without_prompts(Slow(), Work(32, 64, 3)) == {"tokens": 256, "wall_s": 8, "cpu_s": 8, "read_bytes": 0}
