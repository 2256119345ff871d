"""The project's pages and the fenced blocks in them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: the words after the fence's backticks, and the text inside."""

    page: str
    line: int
    info: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str, marked: str | None = None) -> list[Block]:
    """All fenced blocks in one of these languages; those whose fence also says `marked`, if that is given."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for fence in re.finditer(r"^```([^\n`]+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            block = Block(
                page=str(page.relative_to(ROOT)),
                line=text.count("\n", 0, fence.start()) + 1,
                info=tuple(fence[1].split()),
                text=fence[2],
            )
            if block.info[0] in languages and (marked is None or marked in block.info):
                found.append(block)
    return found
