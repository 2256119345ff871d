"""--keep-alive and its neighbours: what they mean for each model, and what is wrong with a value."""

from collections.abc import Callable
from pathlib import Path

import pytest

from servery import cli
from servery.server.option_error import OptionError
from servery.server.options import ServeOptions
from servery.server.residence_options import ResidenceOptions
from servery.upstream.residence import Stay


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], ServeOptions]:
    """What `servery serve` makes of options, for the models `a` and `b`."""
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    calls: list[ServeOptions] = []
    monkeypatch.setattr("servery.server.serve.run", lambda options: calls.append(options) or cli.DONE)

    def ask(options: str) -> ServeOptions:
        assert cli.main(["serve", "a=model", "b=model", *options.split()]) == cli.DONE
        return calls.pop()

    return ask


def test_without_options_models_are_loaded_at_the_start_and_stay(asked: Callable[[str], ServeOptions]) -> None:
    residence = asked("").residence
    assert residence == ResidenceOptions()
    assert residence.stay("a", 7) == Stay(keep_alive_s=None, on_demand=False, max_waiting=7)
    assert not residence.makes_room


def test_every_option_arrives(
    asked: Callable[[str], ServeOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servery.server.residence_options.is_in_memory", lambda folder: False)
    options = asked(
        f"--load-on-demand --keep-alive 5m --keep-alive b=forever --sleep-level 1 --sleep-dir {tmp_path} --memory 4GiB"
    )
    assert options.residence == ResidenceOptions(
        on_demand=True, keep_alive_s={"": 300.0, "b": None}, sleep_level=1, sleep_dir=tmp_path, memory_bytes=4 << 30
    )
    assert [model.engine.sleep_dir for model in options.models] == [tmp_path, tmp_path]
    assert options.residence.stay("a", 7) == Stay(keep_alive_s=300.0, sleep_level=1, on_demand=True, max_waiting=7)
    assert options.residence.stay("b", 7).keep_alive_s is None
    assert options.residence.makes_room


@pytest.mark.parametrize(
    ("text", "time_s"),
    [("0", 0.0), ("30", 30.0), ("0.5", 0.5), ("90s", 90.0), ("5m", 300.0), ("1.5h", 5400.0), ("forever", None)],
)
def test_a_time_is_written_in_seconds_minutes_or_hours(
    asked: Callable[[str], ServeOptions], text: str, time_s: float | None
) -> None:
    assert asked(f"--keep-alive {text}").residence.keep_alive_s == {"": time_s}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--keep-alive soon",
            "--keep-alive is 'soon'; a time is a number of seconds (300), minutes (5m) or hours (1h)",
        ),
        ("--keep-alive=-1", "--keep-alive is '-1'; a time is"),
        ("--keep-alive a=", "--keep-alive is 'a='; a time is"),
        ("--keep-alive =5m", "--keep-alive is '=5m'; it must be TIME or MODEL=TIME"),
        ("--keep-alive 5m --keep-alive 6m", "--keep-alive 6m: there is another time for all models"),
        ("--keep-alive a=5m --keep-alive a=forever", "--keep-alive a=forever: there is another time for a"),
        ("--keep-alive aa=5m", "--keep-alive aa=...: no model 'aa' is served, only 'a', 'b'. Did you mean 'a'?"),
        ("--sleep-level 1", "without --keep-alive none does; add it, such as --keep-alive 5m"),
        ("--sleep-level 1 --keep-alive forever", "without --keep-alive none does"),
        ("--sleep-level 3 --keep-alive 5m", "argument --sleep-level: invalid choice: 3 (choose from 1, 2)"),
        ("--sleep-dir nowhere", "--sleep-dir is 'nowhere', which is not a directory"),
        ("--sleep-dir /dev/shm", "--sleep-dir is '/dev/shm', which is in memory itself; name a folder on a disk"),
        ("--models-dir nowhere", "--models-dir is 'nowhere', which cannot be read: No such file or directory"),
        ("--memory 512MiB", "--memory is 536870912 bytes (512 MiB); the process of a model alone takes 512 MiB"),
        ("--memory much", "argument --memory: 'much' is not a size"),
    ],
)
def test_what_cannot_be_is_told_with_the_rule(
    asked: Callable[[str], ServeOptions], capsys: pytest.CaptureFixture[str], options: str, message: str
) -> None:
    try:
        code: object = cli.main(["serve", "a=model", "b=model", *options.split()])
    except SystemExit as left:
        code = left.code
    assert (code, message in capsys.readouterr().err) == (cli.USAGE, True)


def test_models_of_a_folder_are_served_with_the_same_settings_but_not_loaded(
    asked: Callable[[str], ServeOptions], tmp_path: Path
) -> None:
    for name in ("b", "c"):
        (tmp_path / "all" / name).mkdir(parents=True)
        (tmp_path / "all" / name / "config.json").touch()
    (tmp_path / "all" / "no-model").mkdir()
    for name in ("d.gguf", "e-00001-of-00002.gguf", "e-00002-of-00002.gguf", "c.gguf", "notes.txt"):
        (tmp_path / "all" / name).touch()
    options = asked("--models-dir all --threads 3 --max-loras 2 --keep-alive d=5m --alias x=e")
    assert [model.name for model in options.models] == ["a", "b"]
    found = options.found()
    assert {name: model.engine.model.name for name, model in found.items()} == {
        "c": "c", "d": "d.gguf", "e": "e-00001-of-00002.gguf"
    }  # fmt: skip
    assert {(model.engine.threads, model.engine.max_loras) for model in found.values()} == {(3, 2)}
    (tmp_path / "all" / "late.gguf").touch()
    assert "late" in options.found()


def test_a_folder_of_models_will_do_without_any_other(asked: Callable[[str], ServeOptions], tmp_path: Path) -> None:
    calls: list[ServeOptions] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("servery.server.serve.run", lambda options: calls.append(options) or cli.DONE)
        assert cli.main(["serve", "--models-dir", str(tmp_path)]) == cli.DONE
        assert cli.main(["serve", "--models-dir", str(tmp_path), "--lora", "x=model"]) == cli.USAGE
    assert (calls[0].models, [*calls[0].found()]) == ((), [])


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(OptionError, match="where this user may write nothing"):
        ResidenceOptions(sleep_dir=tmp_path)
