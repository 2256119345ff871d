"""What the documentation tells people to type exists, and what it links to is there."""

import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest

from servery import cli
from servery.config.load import parse_config
from servery.engine.gguf.families import FAMILIES
from servery.engine.quantization.config import QUANTIZATION_METHODS
from servery.engine.quantization.gguf_blocks import HELD_BITS
from servery.engine.supported import ARCHITECTURES
from servery.telemetry.metrics import Metrics
from tests.documentation import PAGES, ROOT, Block, blocks

TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def commands(script: str) -> list[list[str]]:
    """The simple commands of a shell script, as words; pipes and `&&` separate, assignments in front are dropped."""
    found = []
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not set(word) <= set("();<>|&"):
                words.append(word)
                continue
            while words and re.match(r"[A-Z_]+=", words[0]):
                words.pop(0)
            if words:
                found.append(words)
            words = []
    return found


def typed(program: str) -> list[tuple[str, list[str]]]:
    """Where each command line with this program stands, in a block or in a line of prose, and its arguments."""
    in_blocks = [(str(block), command) for block in blocks("sh") for command in commands(block.text)]
    in_prose = [
        (page.name, shlex.split(code))
        for page in PAGES
        for code in re.findall(rf"(?<!`)`({program} [^`\n]+)`", page.read_text())
        if "…" not in code
    ]
    return [
        (where, words[1:]) for where, words in (*in_blocks, *in_prose) if words[0] in {program, f".venv/bin/{program}"}
    ]


def shown(value: object) -> str:
    """A test's id: a place or a command line."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


@pytest.mark.parametrize(("where", "arguments"), typed("servery"), ids=shown)
def test_the_command_line_parses(where: str, arguments: list[str]) -> None:
    if "--help" in arguments:
        with pytest.raises(SystemExit, match=r"^0$"):
            cli.parser().parse_args(arguments)
    else:
        assert cli.parser().parse_args(arguments), where


@pytest.mark.parametrize(("where", "arguments"), typed("make"), ids=shown)
def test_the_make_target_exists(where: str, arguments: list[str]) -> None:
    assert {word for word in arguments if "=" not in word} <= TARGETS, where


@pytest.mark.parametrize(("where", "arguments"), typed("python"), ids=shown)
def test_the_python_module_exists(where: str, arguments: list[str]) -> None:
    assert arguments[0] == "-m", where
    assert importlib.util.find_spec(arguments[1]), where


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_the_python_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_the_json_parses(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", blocks("yaml", marked="config"), ids=str)
def test_the_configurations_are_right(block: Block) -> None:
    assert parse_config(block.text, {}).models


def test_every_block_names_its_language() -> None:
    known = {"sh", "python", "json", "text", "yaml"}
    unnamed = [
        f"{page.name}: {fence[1]!r}"
        for page in PAGES
        for fence in re.findall(r"^(```)(.*)$", page.read_text(), re.MULTILINE)[::2]
        if not fence[1] or fence[1].split()[0] not in known
    ]
    assert unnamed == []


def test_the_metrics_page_names_every_metric_and_no_other() -> None:
    exported = set(re.findall(r"^# TYPE (servery_\S+) ", Metrics().render().decode(), re.MULTILINE))
    page = (ROOT / "docs" / "operations.md").read_text()
    assert set(re.findall(r"`(servery_[a-z0-9_]+)`", page)) - {"servery_"} == exported


def anchors(page: Path) -> set[str]:
    """The fragments that headings of a page can be linked by."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_models_page_names_every_architecture_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", (ROOT / "docs" / "models.md").read_text(), re.MULTILINE)
    assert rows == [(name, each.families, each.note) for name, each in ARCHITECTURES.items()]


def test_the_models_page_names_every_quantization_method() -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    section = page.partition("## Quantized checkpoints")[2].partition("##")[0]
    assert [name for name in QUANTIZATION_METHODS if f"`{name}`" not in section] == []


def test_the_models_page_says_what_gguf_files_may_hold() -> None:
    section = (ROOT / "docs" / "models.md").read_text().partition("## GGUF")[2].partition("\n## ")[0]
    assert [name for name in FAMILIES if f"`{name}`" not in section] == []
    held = {
        kind: row
        for row in re.findall(r"^\| (\w.*) \| .* \| (.*) \|$", section, re.MULTILINE)
        for kind in row[0].split(", ")
    }
    shown = {kind: f"{bits:g}" for kind, bits in HELD_BITS.items() if "F" not in kind}
    assert {kind: bits for kind, bits in shown.items() if bits not in held[kind][1].split(", ")} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_inside_the_project_resolves(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        place, _, fragment = target.partition("#")
        if ":" in place:
            continue
        path = (page.parent / place).resolve() if place else page
        if not path.exists() or (fragment and fragment not in anchors(path)):
            broken.append(target)
    assert broken == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    pages = [page.name for page in (ROOT / "docs").glob("*.md") if page.name != "index.md"]
    assert [name for name in pages if f"({name})" not in index] == []
