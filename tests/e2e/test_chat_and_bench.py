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


def test_turns_of_a_conversation_find_what_was_said_before_in_the_cache(server: ServerProcess, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    lengths = ("--prompt-tokens", "60", "--output-tokens", "20", "--turns", "3", "--turn-tokens", "30")
    load = ("--rate", "8", "--requests", "6", "--warmup", "1", "--no-bandwidth", "--json", str(out))
    done = servery("bench", "run", "--url", server.url, *lengths, *load)
    assert "TTFT by turn of the conversation: 1: " in done.stdout, done.stderr
    samples = json.loads(out.read_bytes())["samples"]
    assert [sample["turn"] for sample in samples] == [1, 2, 3] * 2
    for first, second, third in (samples[:3], samples[3:]):
        assert first["due_s"] + first["e2e_s"] <= second["sent_s"]
        # What was asked and answered, and the next message: no more than its template besides.
        assert first["prompt_tokens"] + 20 < second["prompt_tokens"] < third["prompt_tokens"]
        # All whole blocks of the turn before were computed and are found, but the answer's newest token.
        assert second["cached_tokens"] >= first["prompt_tokens"] - 16
        assert third["cached_tokens"] >= second["prompt_tokens"] - 16
