"""Files and batches with the official client; a server that is killed goes on with its batch."""

import json
from pathlib import Path

import openai
import pytest

from tests.e2e.server_process import ServerProcess, eventually, serving


def client_of(server: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)


def lines(count: int, max_tokens: int = 5) -> bytes:
    body = {
        "model": "amuse",
        "prompt": "Once upon a time",
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "temperature": 0,
    }
    asked = ({"custom_id": f"r{i}", "method": "POST", "url": "/v1/completions", "body": body} for i in range(count))
    return b"\n".join(json.dumps(each).encode() for each in asked)


def begin(client: openai.OpenAI, data: bytes) -> str:
    file = client.files.create(file=("in.jsonl", data), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    return batch.id


def wait(client: openai.OpenAI, batch_id: str, least: int) -> openai.types.Batch:
    """The batch once `least` of its requests have been answered, or it is completed."""

    def is_so() -> bool:
        batch = client.batches.retrieve(batch_id)
        return batch.status == "completed" or (
            batch.request_counts is not None and batch.request_counts.completed >= least
        )

    eventually(is_so, f"{least} answers", 60)
    return client.batches.retrieve(batch_id)


def results(client: openai.OpenAI, file_id: str | None) -> dict[str, str]:
    assert file_id is not None
    found = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    assert all(each["response"]["status_code"] == 200 for each in found)
    return {each["custom_id"]: each["response"]["body"]["choices"][0]["text"] for each in found}


def test_a_batch_survives_a_kill_and_answers_everything_once(tmp_path: Path) -> None:
    with serving("--files", str(tmp_path / "kept")) as server, client_of(server) as client:
        batch_id = begin(client, lines(60, max_tokens=60))
        wait(client, batch_id, 5)
        server.process.kill()
        server.process.wait()
    with serving("--files", str(tmp_path / "kept")) as server, client_of(server) as client:
        done = wait(client, batch_id, 61)
        answers = results(client, done.output_file_id)
        alone = client.completions.create(
            model="amuse", prompt="Once upon a time", max_tokens=60, temperature=0, extra_body={"ignore_eos": True}
        )

        assert set(answers) == {f"r{i}" for i in range(60)}
        assert set(answers.values()) == {alone.choices[0].text}
        assert [each.id for each in client.batches.list()] == [batch_id]


def test_files_are_kept_listed_read_and_removed(tmp_path: Path) -> None:
    with serving("--files", str(tmp_path / "kept"), "--max-file", "1KiB") as server, client_of(server) as client:
        first = client.files.create(file=("a.txt", b"one"), purpose="user_data")
        second = client.files.create(file=("b.jsonl", b"two"), purpose="batch")

        assert (first.filename, first.bytes, first.purpose) == ("a.txt", 3, "user_data")
        assert client.files.content(second.id).read() == b"two"
        assert [each.id for each in client.files.list(purpose="batch")] == [second.id]
        client.files.delete(first.id)
        with pytest.raises(openai.NotFoundError, match="There is no file"):
            client.files.retrieve(first.id)
        with pytest.raises(openai.APIStatusError, match="The file is too large") as caught:
            client.files.create(file=("c.txt", b"x" * 2000), purpose="batch")
        assert caught.value.status_code == 413
        with pytest.raises(openai.BadRequestError, match="'purpose' is 'fun'"):
            client.files.create(file=("c.txt", b"x"), purpose="fun")  # type: ignore[arg-type]
        wrong = client.files.create(file=("d.txt", b"x"), purpose="user_data")
        with pytest.raises(openai.BadRequestError, match="left for 'user_data'"):
            client.batches.create(input_file_id=wrong.id, endpoint="/v1/completions", completion_window="24h")


def test_two_servers_do_not_share_a_folder(tmp_path: Path) -> None:
    with serving("--files", str(tmp_path)):
        second = ServerProcess("--port", "0", "--files", str(tmp_path))
        try:
            second.wait_line("--files .* cannot be used: another server is using it")
            assert second.wait_exit() == 2
        finally:
            second.end()
