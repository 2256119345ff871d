"""Write docs/cli.md from the command line's own parser: `python -m tools.cli_page`.

The page is made from the options themselves, not from argparse's help, whose layout differs between Pythons.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from servery import cli

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
HEAD = """# The command line

<!-- Made by `make format` from src/servery/cli.py; edit that. -->

`servery --help`, and `--help` after a verb, say the same. Results go to stdout, everything else to stderr.
[Exit codes](operations.md#exit-codes) are the same for all verbs.
"""


def page() -> str:
    """The whole page as Markdown."""
    return "\n".join([HEAD, *(part for name, verb in verbs().items() for part in _verb(name, verb))])


def verbs() -> dict[str, argparse.ArgumentParser]:
    """Each verb's own parser; a verb of several words, such as `eval run`, by all of them."""
    return dict(_verbs(cli.parser()))


def _verbs(parser: argparse.ArgumentParser, words: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    chosen = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001  (argparse has no public way to them)
    if not any(action.required for action in chosen):
        yield words, parser
    for action in chosen:
        for word, verb in action.choices.items():
            yield from _verbs(verb, f"{words} {word}".strip())


def _verb(name: str, verb: argparse.ArgumentParser) -> Iterator[str]:
    text, _, example = (verb.description or "").partition("Example:")
    yield f"## servery {name}\n"
    yield text.strip() + "\n"
    yield "```sh"
    yield from (line.strip() for line in example.strip().splitlines())
    yield "```\n"
    yield "| option | |"
    yield "|---|---|"
    for action in verb._actions:  # noqa: SLF001
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction):  # noqa: SLF001
            yield f"| {_names(action)} | {_meaning(action)} |"
    yield ""


def _names(action: argparse.Action) -> str:
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    if not action.option_strings:
        return f"`{value} …`" if action.nargs == "*" else f"`{value}`"
    shown = "" if action.nargs == 0 else f" {value}"
    return ", ".join(f"`{name}{shown}`" for name in action.option_strings).replace("|", "\\|")


def _meaning(action: argparse.Action) -> str:
    takes_value = bool(action.option_strings) and action.nargs != 0
    has_default = action.default is not None and action.default not in ([], argparse.SUPPRESS)
    default = f" (default {action.default})" if takes_value and has_default else ""
    return f"{action.help}{default}".replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
