"""What can go wrong in an evaluation.

EvalError
├── OptionError       an option, or two of them together, cannot be used
├── TaskFileError     a line of a task file, with its number and the key
├── ResultFileError   a file of results that is no such file, is torn, or belongs to something else
├── VerdictError      a judge's answer that is no verdict
└── Abandoned         too many requests in a row failed
"""


class EvalError(Exception):
    """Base of everything an evaluation raises on purpose."""


class OptionError(EvalError):
    """An option, or two of them together, cannot be used; the message names it."""


class TaskFileError(EvalError):
    """A task cannot be used; the message names file, line and key."""


class ResultFileError(EvalError):
    """A file of results cannot be used; the message names it and says what to do."""


class VerdictError(EvalError):
    """The judge answered something other than one verdict."""


class Abandoned(EvalError):
    """Too many requests in a row failed; what was answered is in the file, the same command goes on."""
