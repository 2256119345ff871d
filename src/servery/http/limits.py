"""What a client may use, and how long an exchange may take."""

import math
from dataclasses import dataclass, field

import msgspec

from servery.http.answer_reader import AnswerLimits


class Deadlines(msgspec.Struct, frozen=True, gc=False):
    """Seconds; `math.inf` is no limit. Each is judged at most one tick of the timer wheel late, never early."""

    queue_s: float = 10.0  # waiting for one of the origin's connections to become free
    connect_s: float = 5.0  # resolving, TCP, proxy and TLS together
    head_s: float = 60.0  # from the request having been written to the answer's complete head
    first_piece_s: float = math.inf  # from the request having been written to the first bytes of the body
    stall_s: float = (
        60.0  # silence of the server: no bytes of the body for a reader who waits, none of the request taken
    )
    total_s: float = math.inf  # from the call of `request` to the end of the body


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Bounds of one client."""

    connections_per_origin: int = 256
    waiting_per_origin: int = 1024
    idle_s: float = 30.0  # less than what servers use: nginx 75 s, uvicorn 5 s (which costs it a retry)
    # Once a request is out, a kept connection that closes sooner than this was closed before its server read any of it, or
    # as it did; later, the server may have been at work, and what it lost is lost.
    crossed_s: float = 0.05
    buffer_bytes: int = 256 << 10  # of a body that nobody reads: the socket is paused there
    address_s: float = 30.0  # how long a resolved name is believed
    next_address_s: float = 0.25  # how long one address may be silent before the next is tried beside it (RFC 8305)
    answer: AnswerLimits = field(default_factory=AnswerLimits)
