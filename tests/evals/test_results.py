"""A file of results survives a kill, belongs to one run, and says so when it does not."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from servery.evals import results
from servery.evals.errors import OptionError, ResultFileError
from servery.evals.fingerprint import Fingerprint
from servery.evals.results import Item, Writer
from tests.evals.runs import COMPUTED, checkpoint, header, save

HEADER = header({"x": 3})
ONE, TWO = Item(id="1", stratum="x", is_right=True, text="é\n"), Item(id="2", stratum="x", error="http_500: no")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with Writer(path, HEADER) as writer:
        assert writer.done == {}
        writer.write(ONE)
        assert results.read(path).items == {"1": ONE}, "each line is there at once"
        writer.write(TWO)
    found = results.read(path)
    assert (found.header, found.items, found.answered) == (HEADER, {"1": ONE, "2": TWO}, {"1": ONE})
    assert found.num_missing == {"x": 2}


@pytest.mark.parametrize("torn", [1, 5, 20])
def test_a_run_goes_on_after_a_kill_in_the_middle_of_a_line(tmp_path: Path, torn: int) -> None:
    path = tmp_path / "r.jsonl"
    with Writer(path, HEADER) as writer:
        writer.write(ONE)
        writer.write(TWO)
    path.write_bytes(path.read_bytes()[:-torn])
    with Writer(path, HEADER) as writer:
        assert writer.done == {"1": ONE}
        writer.write(Item(id="2", stratum="x", is_right=False))
    assert list(results.read(path).answered) == ["1", "2"]


def test_a_run_that_was_killed_while_it_wrote_the_header_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(msgspec.json.encode(HEADER)[:-5])
    with Writer(path, HEADER) as writer:
        assert writer.done == {}
    assert results.read(path).header == HEADER


def test_what_had_failed_is_asked_again_and_its_last_line_counts(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    answered = Item(id="2", stratum="x", is_right=True)
    for item in (TWO, answered):
        with Writer(path, HEADER) as writer:
            assert writer.done == {}
            writer.write(item)
    assert results.read(path).items == {"2": answered}


def test_the_file_of_another_run_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with Writer(path, HEADER) as writer:
        writer.write(ONE)
    before = path.read_bytes()
    other = msgspec.structs.replace(HEADER, model="n", settings={"dtype": "bfloat16"}, provenance={"date": "later"})
    with pytest.raises(ResultFileError, match=r"of another run \(model, settings.dtype differ\)"):
        Writer(path, other)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"computed": msgspec.structs.replace(COMPUTED, kernels="torch")}, "computed.kernels"),
        (
            {"settings": {"engine": {"calibration": "c", "calibration_sha256": "2"}}},
            "settings.engine.calibration_sha256",
        ),
        ({"computed": None}, "computed"),
    ],
)
def test_a_run_does_not_go_on_with_other_kernels_or_another_calibration_text(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    engine = {"calibration": "c", "calibration_sha256": "1"}
    head = msgspec.structs.replace(HEADER, computed=COMPUTED, settings={"engine": engine})
    with Writer(tmp_path / "r.jsonl", head):
        pass
    with pytest.raises(ResultFileError, match=rf"of another run \({named} differ\)"):
        Writer(tmp_path / "r.jsonl", msgspec.structs.replace(head, **changes))


def test_two_runs_do_not_write_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with Writer(path, HEADER), pytest.raises(ResultFileError, match="being written by another run"):
        Writer(path, HEADER)
    with Writer(path, HEADER):
        pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no header"),
        ("{}\n", r":1: .*missing required field"),
        ("no\n", r":1: .*it is no line that"),
    ],
)
def test_a_file_that_is_no_run_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(content)
    with pytest.raises(ResultFileError, match=message):
        results.read(path)


def test_a_line_or_a_schema_that_is_unknown_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "r.jsonl", {"x": [True]}).path
    with path.open("a") as file:
        file.write('{"id": 5}\n')
    with pytest.raises(ResultFileError, match=r"r.jsonl:3: .*\$\.id"):
        results.read(path)
    path.write_bytes(msgspec.json.encode(header({}, schema="servery.eval.run/9")) + b"\n")
    with pytest.raises(ResultFileError, match=r"`schema` is 'servery.eval.run/9'"):
        results.read(path)


def test_a_checkpoint_is_known_by_its_files_and_not_by_its_place(tmp_path: Path) -> None:
    one = Fingerprint.of(checkpoint(tmp_path / "a"))
    same, other = checkpoint(tmp_path / "b"), checkpoint(tmp_path / "c", b"v")
    assert one.is_same_model(Fingerprint.of(same))
    assert Fingerprint.of(other).tokenizer == one.tokenizer
    assert not one.is_same_model(Fingerprint.of(other))
    (same / "tokenizer.json").write_text("[]")
    assert not one.is_same_model(Fingerprint.of(same))
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match="has no weights"):
        Fingerprint.of(tmp_path / "empty")


def test_a_gguf_file_is_known_by_its_content_and_by_what_lies_beside_it(tmp_path: Path) -> None:
    for name, content in {"a": b"1", "b": b"1", "c": b"2"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.gguf").write_bytes(content)
    one, same, other = (Fingerprint.of(tmp_path / name / f"{name}.gguf") for name in "abc")
    assert (one.is_same_model(same), one.is_same_model(other)) == (True, False)
    (tmp_path / "b" / "tokenizer.json").write_text("{}")
    with_tokenizer = Fingerprint.of(tmp_path / "b" / "b.gguf")
    assert (with_tokenizer.weights, with_tokenizer.tokenizer == one.tokenizer) == (one.weights, False)
    with pytest.raises(OptionError, match=r"is neither a checkpoint's folder nor a \.gguf file"):
        Fingerprint.of(tmp_path / "b" / "tokenizer.json")


def test_all_parts_of_a_split_gguf_model_count(tmp_path: Path) -> None:
    parts = [tmp_path / f"m-0000{number}-of-00002.gguf" for number in (1, 2)]
    for part in parts:
        part.write_bytes(b"1")
    before = Fingerprint.of(parts[1])
    parts[0].write_bytes(b"2")
    assert not Fingerprint.of(parts[1]).is_same_model(before)
