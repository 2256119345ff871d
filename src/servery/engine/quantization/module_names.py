"""Which modules a `quantization_config` names: lists of those that are left alone, patterns of those that differ."""

import re
from dataclasses import dataclass

from servery.engine.errors import LoadError

# Where a pattern that does not name the whole module may end.
_BOUNDARY = r"(?:(?<=\.)|(?=\.|$))"


@dataclass(frozen=True, slots=True)
class SkippedModules:
    """The modules that a checkpoint leaves unquantized, as transformers reads `modules_to_not_convert`.

    A pattern names a module by how its name begins, up to a dot, as text or as a regular expression; or by how it
    ends (`should_convert_module` in transformers' quantizers_utils.py).
    """

    patterns: tuple[str, ...] = ()

    def __contains__(self, module: str) -> bool:
        return any(module.endswith(each) or _begins(each, module) for each in self.patterns)


def matches(pattern: str, module: str) -> bool:
    """Whether the regular expression `pattern` fits the beginning of `module`; raises `LoadError` for a broken one."""
    try:
        return re.match(pattern, module) is not None
    except (re.error, OverflowError, RecursionError) as error:
        raise LoadError(f"quantization_config has the pattern {pattern!r}, which is not valid: {error}.") from error


def _begins(pattern: str, module: str) -> bool:
    if module == pattern or module.startswith(f"{pattern}."):
        return True
    return matches(rf"(?:{pattern}){_BOUNDARY}", module)
