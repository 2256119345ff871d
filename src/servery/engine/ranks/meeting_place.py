"""Where the processes of a model find each other, as the first one tells the others. No torch."""

import msgspec


class MeetingPlace(msgspec.Struct, frozen=True):
    """A `file` of one machine; or a port of the first process, and the network `interface` of this one that leads there.

    `listener` is the socket of the first process that listens on the port already.
    """

    file: str = ""
    host: str = ""
    port: int = 0
    interface: str = "lo"
    listener: int | None = None


def encode_place(place: MeetingPlace) -> str:
    """As JSON, for a command line."""
    return msgspec.json.encode(place).decode()


def decode_place(text: str) -> MeetingPlace:
    """The inverse of `encode_place`."""
    return msgspec.json.decode(text, type=MeetingPlace)
