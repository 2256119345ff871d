"""`servery chat` and `servery bench` against a real server of the embedded model."""

import json
import subprocess
import sys
from pathlib import Path

from tests.e2e.server_process import ServerProcess


def servery(*arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "servery", *arguments]
    return subprocess.run(command, input=typed, capture_output=True, text=True, check=False, timeout=240)


def test_a_pipe_is_answered_line_by_line(server: ServerProcess) -> None:
    """Greedy answers of the second line depend on the first: the conversation is one."""
    settings = ("--url", server.url, "--temperature", "0", "--max-tokens", "20")
    done = servery("chat", *settings, typed="What is 17 + 25?\nHow many minutes are 3 hours?\n")
    alone = servery("chat", *settings, typed="What is 17 + 25?\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(alone.stdout)
    assert len(done.stdout) > len(alone.stdout) > 1


def test_a_model_that_is_not_there_is_one_clear_line(server: ServerProcess) -> None:
    done = servery("chat", "--url", server.url, "--model", "gpt-9", typed="hello\n")
    assert (done.returncode, done.stdout.strip()) == (1, "")
    assert done.stderr.startswith("servery chat: HTTP 404: ")
    assert "gpt-9" in done.stderr


def test_bench_gets_the_lengths_it_asks_for_and_the_engines_share(server: ServerProcess, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    lengths = ("--prompt-tokens", "40:80", "--output-tokens", "5:9", "--shared-prefix-tokens", "64")
    load = ("--concurrency", "3", "--requests", "12", "--json", str(out))
    done = servery("bench", "run", "--url", server.url, *lengths, *load)
    assert done.returncode == 0, done.stderr
    assert "closed loop, 3 clients" in done.stdout
    report = json.loads(out.read_bytes())
    samples = report["samples"]
    assert len(samples) == 12
    assert all(5 <= sample["output_tokens"] <= 9 for sample in samples)
    assert all(64 + 40 - 6 <= sample["prompt_tokens"] <= 64 + 80 for sample in samples)
    assert all(sample["cached_tokens"] >= 32 for sample in samples)  # the warm-up has left the shared part
    # Equal where a busy client reads a whole short answer at once.
    assert all(0 < sample["ttft_s"] <= sample["e2e_s"] for sample in samples)
    assert report["engine"]["steps"] > 0
    assert 0 < report["engine"]["mbu"] < 1
    assert report["engine"]["preemptions"] == 0
