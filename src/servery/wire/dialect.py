"""What an API says whatever was asked: that something is wrong, that a stream still lives, that it is complete."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from servery.wire import sse
from servery.wire.errors import ApiError, encode_error


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """An API's own words.

    `error` gives an error's JSON body, `error_event` the whole event with which a stream under way ends instead; both
    are told the request's id. `statuses` are the API's own, by ours. `keep_alive` breaks a stream's silence; `done` follows its last event. The id goes in `request_id_header`.
    """

    error: Callable[[ApiError, str], bytes]
    error_event: Callable[[ApiError, str], bytes]
    keep_alive: bytes
    done: bytes
    request_id_header: str = "x-request-id"
    statuses: Mapping[int, int] = field(default_factory=dict)


def _openai_error(error: ApiError, request_id: str) -> bytes:
    return encode_error(error)


def _openai_event(error: ApiError, request_id: str) -> bytes:
    return sse.event(encode_error(error))


OPENAI = Dialect(error=_openai_error, error_event=_openai_event, keep_alive=sse.KEEP_ALIVE, done=sse.DONE)
