"""Where servers of the OpenAI API differ: parameters that some refuse, and what to send instead."""

from dataclasses import dataclass
from typing import Any

from servery.bench.errors import WrongStatus

# Refused name -> the name to send instead, or None to leave it out.
_INSTEAD = {
    "ignore_eos": None,  # only engines know it
    "max_tokens": "max_completion_tokens",  # OpenAI's reasoning models
    "temperature": None,
    "top_p": None,
    "seed": None,
    "stream_options": None,
}


@dataclass(frozen=True, slots=True)
class Dialect:
    """The parameters that one server is known to refuse."""

    refused: tuple[str, ...] = ()

    def speak(self, request: dict[str, Any]) -> dict[str, Any]:
        """`request` as this server takes it."""
        spoken = {name: value for name, value in request.items() if name not in self.refused}
        for name in self.refused:
            instead = _INSTEAD[name]
            if name in request and instead is not None:
                spoken[instead] = request[name]
        return spoken

    def learn(self, request: dict[str, Any], error: WrongStatus) -> "Dialect | None":
        """What is known after the server refused `request`; None if that was not because of a parameter's name."""
        if error.status not in (400, 422):
            return None
        sent = (name for name in _INSTEAD if name in self.speak(request))
        for name in sent:
            if error.param == name or (error.param is None and name in error.message):
                return Dialect((*self.refused, name))
        return None

    @property
    def notes(self) -> list[str]:
        """A sentence for each parameter that was changed."""
        return [
            f"the server refuses {name}; " + (f"{_INSTEAD[name]} was sent instead" if _INSTEAD[name] else "left out")
            for name in self.refused
        ]
