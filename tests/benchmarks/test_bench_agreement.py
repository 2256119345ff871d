"""When two benchmarks are said to agree."""

import pytest

from benchmarks.bench_agreement import FIGURES, agreement, read_ours, read_peer, summary


@pytest.mark.parametrize(
    ("ours", "theirs", "agrees"),
    [
        ([100, 101, 99], [100.5, 101, 100], True),
        ([100, 101, 99], [110, 111, 109], False),
        ([100, 200, 95], [110, 111, 109], None),  # the machine was busy
        ([100, 120, 95], [110, 111, 109], True),  # rounds of one tool are further apart than the tools are
        ([100, 100, 100], [102, 102, 102], True),  # within the tolerance
        ([100, 100, 100], [104, 104, 104], False),
    ],
)
def test_tools_agree_that_are_no_further_apart_than_their_own_rounds(
    ours: list[float], theirs: list[float], agrees: bool | None
) -> None:
    assert agreement(ours, theirs, 0.03)["agrees"] is agrees


def test_each_tool_s_file_is_read_by_its_own_names() -> None:
    columns = [name.replace("_ms", "_s") for name in FIGURES]
    rows = [{column: (at + off) / 1e3 for at, column in enumerate(columns, start=1)} for off in (-0.5, 0.5)]
    report = {
        "summary": {"throughput": {"output_tokens": 50.0}},
        "samples": rows,
    }
    ours = read_ours(report)
    expected = {"ttft_ms": 1, "tpot_ms": 2, "e2e_ms": 3, "tokens_per_s": 50}
    assert ours == pytest.approx(expected)
    theirs = {name: {"p50": at, "avg": 0} for at, name in enumerate(FIGURES.values(), start=1)}
    peer = read_peer({**theirs, "output_token_throughput": {"avg": 50.0}})
    assert peer == pytest.approx(ours)
    found = summary([{"tool": "servery", **ours}, {"tool": "aiperf", **peer}], "aiperf", 0.0)
    assert max(one["apart"] for one in found["figures"].values()) < 1e-9
