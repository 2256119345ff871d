"""Claims about the project as a whole: what it ships, what it needs, how its house is kept."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import servery
from servery.cli import ENGINE_MODULES

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "servery"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PYTHON_FILES = sorted(
    path for part in ("src", "training", "benchmarks", "conformance", "tools") for path in (ROOT / part).rglob("*.py")
)
WEIGHTS_LIMIT_BYTES = 40_000_000


def requirements(extra: str | None = None) -> list[Requirement]:
    project = PROJECT["project"]
    return [
        Requirement(line) for line in (project["optional-dependencies"][extra] if extra else project["dependencies"])
    ]


def imported_packages(directory: Path) -> set[str]:
    """Top-level names of everything imported under `directory`, lazy imports included."""
    names: set[str] = set()
    for path in directory.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names


def test_the_installed_version_is_the_packages_own() -> None:
    assert version("servery") == servery.__version__


def test_the_public_surface_is_what_it_was() -> None:
    assert servery.__all__ == ["LLM", "SamplingParams", "__version__"]
    assert [getattr(servery, name).__name__ for name in servery.__all__[:2]] == ["LLM", "SamplingParams"]


def test_importing_servery_loads_no_torch() -> None:
    program = "import servery, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_gateway_installs_without_torch() -> None:
    heavy = {"torch", "transformers", "tokenizers", "safetensors", "numpy", "jinja2"}
    assert {requirement.name for requirement in requirements()} & heavy == set()


def test_a_missing_engine_is_recognised() -> None:
    assert {requirement.name for requirement in requirements("engine")} == ENGINE_MODULES


def test_every_required_package_is_pinned_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {canonicalize_name(name): pin for name, found, pin in (line.partition("==") for line in lines) if found}
    wanted = [
        *requirements(),
        *requirements("engine"),
        *requirements("bedrock"),
        *requirements("postgres"),
        *requirements("redis"),
        *requirements("traces"),
        *requirements("dev"),
    ]
    outside = [
        str(r) for r in wanted if not r.specifier.contains(pins.get(canonicalize_name(r.name), "0"), prereleases=True)
    ]
    assert outside == []


def test_the_engines_torch_is_pinned_exactly() -> None:
    """Packages that ask for any torch would else bring a build for another machine."""
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().splitlines()


def test_every_required_package_is_used() -> None:
    module = {
        "prometheus-client": "prometheus_client",
        "python-multipart": "python_multipart",
        "pyyaml": "yaml",
        "opentelemetry-exporter-otlp-proto-http": "opentelemetry",
        "opentelemetry-sdk": "opentelemetry",
    }
    used = imported_packages(SOURCE)
    extras = ("engine", "bedrock", "postgres", "parquet", "redis", "traces")
    wanted = {r.name for r in (*requirements(), *(each for extra in extras for each in requirements(extra)))}
    assert sorted(name for name in wanted if module.get(name, name) not in used) == []


def test_every_file_that_is_not_python_is_shipped() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["servery"]
    shipped = {path for pattern in patterns for path in SOURCE.glob(pattern)}
    others = {path for path in SOURCE.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc", ".so"}}
    assert sorted(others - shipped) == []


def test_the_weights_stay_small() -> None:
    assert sum(path.stat().st_size for path in SOURCE.rglob("*.safetensors")) <= WEIGHTS_LIMIT_BYTES


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_idea(path: Path) -> None:
    source = path.read_text()
    long_functions = [
        f"{node.name} at line {node.lineno}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert long_functions == []
    # Tables of training text may be long.
    assert len(source.splitlines()) <= 450 or path.is_relative_to(ROOT / "training")
    assert path.stem not in {"utils", "helpers", "common", "manager", "base", "misc"}


def test_the_code_parses_on_the_oldest_python() -> None:
    oldest = Version(PROJECT["project"]["requires-python"].removeprefix(">="))
    for path in PYTHON_FILES:
        ast.parse(path.read_text(), str(path), feature_version=(oldest.major, oldest.minor))


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"


def test_no_tracked_file_names_a_registry_host_or_this_machine() -> None:
    words = ("files." + "pythonhosted", "pypi" + ".org", "download." + "pytorch", "/work" + "/", "/root" + "/")
    patterns = [argument for word in words for argument in ("-e", word)]
    command = ["git", "-C", str(ROOT), "grep", "-I", "-l", "-F", *patterns]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode > 1:
        pytest.skip("this is not a git checkout")
    assert found.stdout.splitlines() == []


def test_every_make_target_is_phony_and_explained() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split())
    explained = set(re.findall(r"^([a-z-]+):.*## \S", makefile, re.MULTILINE))
    assert phony - explained == {"environment-engine", "environment-dev"}
    assert explained - phony == set()


def test_ci_runs_what_a_developer_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    commands = [line for line in script.read_text().splitlines() if line.startswith("make ")]
    assert commands == ["make environment-dev", "make check", "make test SLOW=1"]
