"""YAML text as plain values that remember where they stood.

Stricter than YAML 1.1: a key given twice is an error, `yes` and `on` are text, `1:30` is no number, and values of
environment variables are put in after parsing, so that they can never become structure.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml

from servery.config.errors import Fault, Path

MAX_CHARS = 1 << 20
MAX_NODES = 100_000  # aliases can make a small file stand for a huge one
_MAX_DEPTH = 50
_LONGEST_NUMBER = 100  # in characters
_VARIABLE = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|(\{[^}]*\}?))")
# One that YAML takes for the beginning of a mapping, as it does within another one.
_BARE_VARIABLE = re.compile(r"[\[{,:]\s*(\$\{[A-Za-z_][^}]*\})")


class _Loader(yaml.SafeLoader):
    """Only what YAML 1.2 calls the core schema: null, true and false, whole numbers in decimal, floats."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own attribute)


_CORE = {
    "tag:yaml.org,2002:null": (re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    "tag:yaml.org,2002:bool": (re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    "tag:yaml.org,2002:int": (re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789")),
    "tag:yaml.org,2002:float": (
        re.compile(r"^[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?$"),
        list("-+0123456789"),
    ),
}
_TEXT = "tag:yaml.org,2002:str"
_SCALARS: Mapping[str, Callable[[str], Any]] = {
    "tag:yaml.org,2002:null": lambda text: None,
    "tag:yaml.org,2002:bool": lambda text: text.lower() == "true",
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": float,
    _TEXT: str,
}

for _tag, (_pattern, _first) in _CORE.items():
    _Loader.add_implicit_resolver(_tag, _pattern, _first)


def _kind(text: str) -> str:
    """The tag of a plain scalar."""
    return next((tag for tag, (pattern, _) in _CORE.items() if pattern.match(text)), _TEXT)


class Tree:
    """A parsed file: `value` is made of dict, list, str, int, float, bool and None; `line(path)` says where it stands."""

    def __init__(self, value: Any, lines: Mapping[Path, int], faults: list[Fault]) -> None:
        self.value = value
        self.faults = faults
        self._lines = lines

    def line(self, path: Path) -> int:
        """The line of the key at `path`, or of the nearest one around it."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)


def parse_tree(text: str, environment: Mapping[str, str]) -> Tree:
    """The tree of YAML `text`, `${NAME}` replaced from `environment`; what is wrong is in its `faults`."""
    if len(text) > MAX_CHARS:
        return Tree(None, {}, [Fault(1, (), f"the file has {len(text)} characters; at most {MAX_CHARS} are read.")])
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        return Tree(None, {}, [_syntax(error, text)])
    except RecursionError:
        return Tree(None, {}, [Fault(1, (), f"the file is nested too deeply; at most {_MAX_DEPTH} levels are read.")])
    if node is None:
        return Tree(None, {}, [Fault(1, (), "the file is empty.")])
    reader = _Reader(environment)
    value = reader.read(node, ())
    return Tree(value, reader.lines, reader.faults)


def _syntax(error: yaml.YAMLError, text: str) -> Fault:
    mark = getattr(error, "problem_mark", None)
    line = 1 if mark is None else mark.line + 1
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    lines = text.splitlines()
    variable = _BARE_VARIABLE.search(lines[line - 1]) if line <= len(lines) else None
    if variable is None:
        return Fault(line, (), f"this is not YAML: {what}.")
    name = variable[1]
    message = (
        f'within {{ }} and [ ] a variable takes quotes: write "{name}", or, where a number is meant, give the key a line of '
        f"its own, `key: {name}`."
    )
    return Fault(line, (), message)


class _Reader:
    """Turns nodes into values and notes their lines and faults."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.lines: dict[Path, int] = {}
        self.faults: list[Fault] = []
        self._environment = environment
        self._nodes = 0

    def read(self, node: yaml.Node, path: Path) -> Any:
        """The value of `node`, which stands at `path`."""
        self.lines.setdefault(path, node.start_mark.line + 1)
        self._nodes += 1
        if self._nodes > MAX_NODES or len(path) > _MAX_DEPTH:
            return self._too_much(node)
        if isinstance(node, yaml.MappingNode):
            return dict(self._pairs(node, path))
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        return [self.read(item, (*path, at)) for at, item in enumerate(node.value)]

    def _pairs(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[str, Any]]:
        seen: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._fault(key, path, "a key must be a word.")
                continue
            name, line = key.value, key.start_mark.line + 1
            if name in seen:
                self._fault(key, (*path, name), f"this key was given before, in line {seen[name]}.")
                continue
            seen[name] = self.lines[(*path, name)] = line
            yield name, self.read(value, (*path, name))

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        text = _VARIABLE.sub(lambda match: self._variable(match, node, path), node.value)
        if node.style is None and text != node.value and _VARIABLE.fullmatch(node.value):
            return self._meant(_kind(text), text, node, path)  # alone and unquoted, a variable can be a number, too
        if node.tag not in _SCALARS:
            self._fault(node, path, f"the tag '{node.tag}' means nothing here; write plain text, a number or a list.")
            return None
        return self._meant(node.tag, text, node, path)

    def _meant(self, tag: str, text: str, node: yaml.Node, path: Path) -> Any:
        """What a scalar with that tag is; None, and a fault, for what is no such thing."""
        if tag == _TEXT or (_kind(text) == tag and len(text) <= _LONGEST_NUMBER):
            return _SCALARS[tag](text)
        if len(text) > _LONGEST_NUMBER:
            message = f"this number has {len(text)} characters; at most {_LONGEST_NUMBER} are read."
        else:  # not shown: a variable may have put it there
            message = f"this is not what its tag says, {tag}; take the tag away."
        self._fault(node, path, message)
        return None

    def _variable(self, match: "re.Match[str]", node: yaml.Node, path: Path) -> str:
        name, default, malformed = match.groups()
        if malformed is not None:
            self._fault(
                node, path, f"'${malformed}' is no variable; write ${{NAME}}, ${{NAME:-default}}, or $$ for a $."
            )
            return ""
        if name is None:
            return "$"
        value = self._environment.get(name) or default
        if value is None:
            given = "is empty" if name in self._environment else "is not set"
            self._fault(node, path, f"the environment variable {name} {given}; set it, or write ${{{name}:-default}}.")
            return ""
        return value

    def _too_much(self, node: yaml.Node) -> None:
        """Say once that the file stands for more than anybody writes, and read no further."""
        if self._nodes <= MAX_NODES + 1:
            self._fault(node, (), f"the file unfolds to more than {MAX_NODES} values or {_MAX_DEPTH} levels.")
        self._nodes = MAX_NODES + 2

    def _fault(self, node: yaml.Node, path: Path, message: str) -> None:
        mark = node.start_mark
        line = self.lines.get(path, 1) if mark is None else mark.line + 1
        self.faults.append(Fault(line, path, message))
