"""`make` finds or makes the environment: quickly when it is there, again when it is half-made."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

import tools.environment
from tools.environment import Environment, Missing, only_one, run_pip

ROOT = Path(__file__).resolve().parents[2]


class RecordedEnvironment(Environment):
    """Does everything but the slow parts, which it writes down."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, root / ".venv")
        self.did: list[str] = []

    def create(self) -> None:
        self.did.append("create")
        self.python.parent.mkdir(parents=True, exist_ok=True)
        self.python.unlink(missing_ok=True)
        self.python.symlink_to(sys.executable)
        self.unfinished.unlink(missing_ok=True)

    def install(self, extras: str) -> None:
        self.did.append(f"install {extras}")


@pytest.fixture
def environment(tmp_path: Path) -> RecordedEnvironment:
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "constraints.txt").write_text("torch==2.13.0\n")
    return RecordedEnvironment(tmp_path)


def test_a_first_run_creates_and_installs_and_a_second_does_nothing(environment: RecordedEnvironment) -> None:
    assert environment.ensure("engine")
    assert not environment.ensure("engine")
    assert environment.did == ["create", "install engine"]


def test_each_set_of_extras_is_installed_once(environment: RecordedEnvironment) -> None:
    for extras in ("engine", "engine,dev", "engine", "engine,dev"):
        environment.ensure(extras)
    assert environment.did == ["create", "install engine", "install engine,dev"]


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_list_of_packages_installs_again_without_a_new_environment(
    environment: RecordedEnvironment, name: str
) -> None:
    environment.ensure("engine")
    (environment.root / name).write_text("changed\n")
    environment.ensure("engine")
    assert environment.did == ["create", "install engine", "install engine"]


def test_changed_kernels_are_built_anew(environment: RecordedEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    native = environment.root / "src" / "servery" / "engine" / "native"
    native.mkdir(parents=True)
    for name in ("linear.h", "pool.cpp", "build.py"):
        environment.ensure("engine")
        (native / name).write_text("changed")
    environment.ensure("engine")
    monkeypatch.setenv("CXX", "another-compiler")
    environment.ensure("engine")
    assert environment.did == ["create", *["install engine"] * 5]


def test_an_environment_whose_install_was_killed_is_made_again(environment: RecordedEnvironment) -> None:
    environment.ensure("engine")
    environment.unfinished.touch()
    environment.ensure("engine")
    assert environment.did == ["create", "install engine", "create", "install engine"]


def test_an_environment_whose_python_is_gone_is_made_again(environment: RecordedEnvironment) -> None:
    environment.ensure("engine")
    environment.python.unlink()
    environment.python.symlink_to("/nowhere/python3")
    environment.ensure("engine")
    assert environment.did == ["create", "install engine", "create", "install engine"]


def test_a_failed_install_leaves_no_stamp_and_says_what_to_do(
    environment: RecordedEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.create()
    monkeypatch.setattr(tools.environment, "run_pip", lambda command, root: 1)
    monkeypatch.setattr(environment, "is_whole", lambda: True)
    monkeypatch.setattr(environment, "install", lambda extras: Environment.install(environment, extras))
    with pytest.raises(Missing, match="pip ended with status 1"):
        environment.ensure("engine")
    assert sorted(path.name for path in environment.directory.iterdir()) == ["bin"]


def test_only_large_downloads_of_pip_are_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said = "Collecting torch\n  Downloading torch-2.13.0.whl (190.5 MB)\n  Downloading idna.whl (70 kB)\n"
    status = run_pip([sys.executable, "-c", f"print({said!r}); raise SystemExit(3)"], tmp_path)
    assert (status, capfd.readouterr().out) == (3, "  Downloading torch-2.13.0.whl (190.5 MB)\n")


def test_a_python_that_is_too_old_is_named(environment: RecordedEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    with pytest.raises(Missing, match=r"^Python 3.11 or newer is needed and .* is 3\.9\.18: make PYTHON="):
        Environment.create(environment)


def test_a_python_without_venv_names_the_package(
    environment: RecordedEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(Missing, match=rf"apt-get install python3\.{sys.version_info.minor}-venv"):
        Environment.create(environment)


def test_a_second_make_waits_for_the_first(tmp_path: Path) -> None:
    order: list[str] = []
    second_is_about_to_wait = threading.Event()

    def second() -> None:
        second_is_about_to_wait.set()
        with only_one(tmp_path / ".venv"):
            order.append("second")

    thread = threading.Thread(target=second)
    with only_one(tmp_path / ".venv"):
        thread.start()
        second_is_about_to_wait.wait()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_make_without_a_python_says_so_in_one_line() -> None:
    done = subprocess.run(["make", "-C", ROOT, "serve", "PYTHON="], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("make")]
    said = (
        "servery: Python 3.11, 3.12 or 3.13 is needed and none was found: "
        "install one, or name it: make PYTHON=/path/to/python3"
    )
    assert (done.returncode, lines) == (2, [said])
