"""The form of an answer, made when somebody writes in it: most answers come in the client's form from elsewhere."""

from collections.abc import Callable, Mapping, Sequence

from servery.wire.message import AnswerForm, Message, MessageDelta
from servery.wire.usage import Usage


class LateForm:
    """An `AnswerForm` that `make` gives on its first use; it may raise `ApiError` then."""

    def __init__(self, make: Callable[[], AnswerForm]) -> None:
        self._make = make
        self._made: AnswerForm | None = None
        self.is_begun = False  # whether anything was written in it
        self._defaults: Mapping[str, float] = {}

    def take(self, form: AnswerForm) -> None:
        """Be this form, in which something was written already."""
        self._made = form
        self.is_begun = True

    def tell(self, defaults: Mapping[str, float]) -> None:
        """As the form's own; that writes nothing yet."""
        self._defaults = defaults

    def start(self, usage: Usage) -> bytes:
        """As the form's own."""
        return self._form().start(usage)

    def delta(self, delta: MessageDelta) -> bytes:
        """As the form's own."""
        return self._form().delta(delta)

    def end(self, usage: Usage) -> bytes:
        """As the form's own."""
        return self._form().end(usage)

    def body(self, messages: Sequence[Message], usage: Usage) -> bytes:
        """As the form's own."""
        return self._form().body(messages, usage)

    def _form(self) -> AnswerForm:
        if self._made is None:
            self._made = self._make()
            self.is_begun = True
            self._made.tell(self._defaults)
        return self._made
