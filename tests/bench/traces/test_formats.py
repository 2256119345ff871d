"""The public traces are read by their columns; what is none is refused with its line."""

import gzip
from pathlib import Path

import pytest

from servery.bench.errors import BadTrace
from servery.bench.traces.formats import read_trace
from servery.bench.traces.request import TraceRequest, shaped

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:17:03.9799600,4808,10
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:00.509930+00:00,100,6
"""
BURSTGPT = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
5,7,1.5,ChatGPT,472,18,490,Conversation log
45,,2.5,ChatGPT,1087,0,1087,Conversation log
118,7,2.5,GPT-4,417,276,693,API log
"""
MOONCAKE = """{"timestamp": 1000, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}
{"timestamp": 4000, "input_length": 900, "output_length": 7, "hash_ids": [0, 2]}
"""


def read(tmp_path: Path, text: str, name: str = "trace.csv") -> list[TraceRequest]:
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return read_trace(path)


def test_azure_is_read_to_the_microsecond_and_sorted(tmp_path: Path) -> None:
    first, second = read(tmp_path, AZURE)
    assert first == TraceRequest(0.0, 4808, 10)
    assert (second.input_tokens, second.at_s) == (3180, pytest.approx(0.052, abs=1e-6))
    assert read(tmp_path, AZURE_2024)[1].at_s == pytest.approx(0.5)


def test_burstgpt_leaves_out_what_failed_and_keeps_sessions(tmp_path: Path) -> None:
    assert read(tmp_path, BURSTGPT) == [
        TraceRequest(0.0, 472, 18, session="7"),
        TraceRequest(113.0, 417, 276, session="7"),
    ]


@pytest.mark.parametrize("name", ["trace.jsonl", "trace.jsonl.gz"])
def test_mooncake_keeps_what_prompts_share(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, MOONCAKE, name) == [TraceRequest(0.0, 600, 5, (0, 1)), TraceRequest(3.0, 900, 7, (0, 2))]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has the columns none"),
        ("a,b\n1,2\n", "has the columns a, b; known are Azure"),
        (AZURE + "yesterday,1,2\n", "line 4"),
        (AZURE + "2023-11-16 18:17:04,-3,2\n", "line 4: '-3' is no number of tokens"),
        (AZURE + "2023-11-16 18:17:04,nan,2\n", "line 4: 'nan' is no number of tokens"),
        (AZURE + "2023-11-16 18:17:04,5\n", "line 4: None is no number of tokens"),
        ("GeneratedTokens,ContextTokens,TIMESTAMP\n5,7\n", "line 2: Invalid isoformat string: 'None'"),
        (AZURE + f"2023-11-16 18:17:04,{10**12},2\n", "from 0 to 10000000"),
        (AZURE + "x" * 200_000, "is not a trace: field larger than field limit"),
        (BURSTGPT + "nan,7,2.5,GPT-4,417,276,693,API log\n", "line 5: nan is no time"),
        (BURSTGPT + "inf,7,2.5,GPT-4,417,276,693,API log\n", "line 5: inf is no time"),
        (MOONCAKE + '{"timestamp": "nan", "input_length": 6, "output_length": 5}\n', "line 3 .* nan is no time"),
        (MOONCAKE + '{"timestamp": 1, "input_length": 6, "output_length": 5, "hash_ids": null}\n', "line 3"),
        (MOONCAKE + "[1]\n", "line 3"),
        (AZURE.splitlines()[0], "no request in it"),
        ('{"timestamp": 1}\n', "line 1 is no request of a Mooncake trace"),
        ("{oops\n", "line 1"),
    ],
)
def test_what_is_no_trace_says_where(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadTrace, match=words):
        read(tmp_path, text)


def test_bytes_that_are_no_text_are_no_trace(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "b.gz").write_bytes(b"not gzip")
    whole = gzip.compress(AZURE.encode())
    (tmp_path / "c.gz").write_bytes(whole[:-12])
    (tmp_path / "d.gz").write_bytes(whole[:12] + b"\xff" * 20 + whole[32:])
    for name in ("a.csv", "b.gz", "c.gz", "d.gz"):
        with pytest.raises(BadTrace, match="is not a trace"):
            read_trace(tmp_path / name)


def test_stretching_keeps_the_bursts() -> None:
    requests = [TraceRequest(at, 1, 1) for at in (10.0, 10.5, 11.0, 14.0)]
    assert [one.at_s for one in shaped(requests, rate=0.75)] == pytest.approx([0.0, 0.5, 1.0, 4.0])
    assert [one.at_s for one in shaped(requests, rate=7.5)] == pytest.approx([0.0, 0.05, 0.1, 0.4])
    assert shaped(requests, rate=None) == requests
    with pytest.raises(ValueError, match="same instant"):
        shaped(requests[:1] * 3, rate=1.0)
