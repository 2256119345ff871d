"""A response's stream read back: what a client was told so far, so that the same response can go on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from servery.wire.message import CallDelta, MessageDelta, TokenLogprob, TopLogprob

_Fields = dict[str, Any]
# What says nothing that another event does not say.
_ECHOES = frozenset(
    (
        "response.in_progress",
        "response.output_text.done",
        "response.reasoning_text.done",
        "response.function_call_arguments.done",
        "response.content_part.done",
    )
)
_ITEMS = ("message", "reasoning", "function_call")


class NotReadable(Exception):
    """There are events of which nobody here knows how they would go on."""


@dataclass(slots=True)
class ToldResponse:
    """`response` as it was created, the items that are `done`, the one that is `open`, and the next event's number.

    `deltas` are all that was said, in order.
    """

    response: _Fields
    done: list[_Fields] = field(default_factory=list)
    open: _Fields | None = None
    number: int = 0
    deltas: list[MessageDelta] = field(default_factory=list)


def told_response(events: Sequence[_Fields]) -> ToldResponse:
    """What the events tell, from the first on; raises `NotReadable`, also where an item is just being opened or closed."""
    first = events[0]
    if first.get("type") != "response.created" or not isinstance(first.get("response"), dict):
        raise NotReadable(first.get("type"))
    reader = _Reader(ToldResponse(first["response"]))
    try:
        for event in events[1:]:
            reader.read(event)
        reader.told.number = int(events[-1].get("sequence_number", len(events) - 1)) + 1
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise NotReadable("an event that lacks a field") from error
    if reader.is_between:
        raise NotReadable(events[-1].get("type"))
    return reader.told


class _Reader:
    """`is_between`: the last event is one behind which another must come before the item can grow, or is done."""

    def __init__(self, told: ToldResponse) -> None:
        self.told = told
        self.is_between = True  # it is told to be in progress next
        self._calls = 0

    def read(self, event: _Fields) -> None:
        kind = event.get("type", "")
        if kind == "response.output_item.added":
            self._added(event)
        elif kind == "response.output_item.done":
            self._done(event)
        elif kind == "response.content_part.added":
            self._part(event)
        elif kind.endswith(".delta"):
            self.told.deltas.append(self._grown(kind, event))
        elif kind in _ECHOES:
            self.is_between = kind.endswith(".done")
        else:
            raise NotReadable(kind)

    def _added(self, event: _Fields) -> None:
        told, item = self.told, event["item"]
        if told.open is not None or event.get("output_index") != len(told.done) or item.get("type") not in _ITEMS:
            raise NotReadable(item.get("type"))
        told.open, self.is_between = item, item["type"] == "message"
        if item["type"] == "function_call":
            call = CallDelta(position=self._calls, id=item["call_id"], name=item["name"])
            told.deltas.append(MessageDelta(calls=(call,)))
            self._calls += 1

    def _part(self, event: _Fields) -> None:
        is_first = event.get("content_index") == 0 and event["part"].get("type") == "output_text"
        if not is_first or self._open_type != "message":
            raise NotReadable(event["part"].get("type"))
        self.is_between = False

    def _done(self, event: _Fields) -> None:
        if self.told.open is None:
            raise NotReadable("nothing is open")
        self.told.done.append(event["item"])
        self.told.open, self.is_between = None, False

    def _grown(self, kind: str, event: _Fields) -> MessageDelta:
        text, opened = event["delta"], self._open_type
        if kind == "response.output_text.delta" and opened == "message":
            return MessageDelta(content=text, logprobs=_logprobs(event.get("logprobs") or ()))
        if kind == "response.reasoning_text.delta" and opened == "reasoning":
            return MessageDelta(reasoning=text)
        if kind == "response.function_call_arguments.delta" and opened == "function_call":
            return MessageDelta(calls=(CallDelta(position=self._calls - 1, arguments=text),))
        raise NotReadable(kind)

    @property
    def _open_type(self) -> str | None:
        return None if self.told.open is None else self.told.open["type"]


def _logprobs(given: Sequence[_Fields]) -> list[TokenLogprob] | None:
    return [
        TokenLogprob(
            each["token"],
            each["logprob"],
            each.get("bytes") or [],
            [
                TopLogprob(top["token"], top["logprob"], top.get("bytes") or [])
                for top in each.get("top_logprobs") or ()
            ],
        )
        for each in given
    ] or None
