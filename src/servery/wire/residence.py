"""`/sleep`, `/wake_up` and `/is_sleeping` as vLLM has them, `/v1/models/load` and `/v1/models/unload`."""

from dataclasses import dataclass
from urllib.parse import parse_qs

import msgspec

from servery.wire.body import decode
from servery.wire.errors import did_you_mean, invalid, shown, unsupported

LEVELS = (1, 2)
# What vLLM's calls have and this server does not.
_UNSUPPORTED = {
    "tags": "a model wakes as a whole.",
    "mode": "answers under way are always finished first.",
}


class NamedModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model to load or unload; it may be left out where one is served."""

    model: str | None = None


@dataclass(frozen=True, slots=True)
class SleepQuery:
    """Which model, None for all; and how deep it is to sleep."""

    model: str | None = None
    level: int = 1


_DECODER = msgspec.json.Decoder(NamedModel)


def decode_named_model(body: bytes) -> NamedModel:
    """A checked request; raises `ApiError`."""
    return decode(body, _DECODER)


def read_sleep_query(query: bytes, *known: str) -> SleepQuery:
    """What a query string asks for, by the names of `known` parameters; raises `ApiError`."""
    listed = parse_qs(query.decode("latin-1"), keep_blank_values=True)
    given = {name: values[-1] for name, values in listed.items()}
    for name, values in listed.items():
        if name in _UNSUPPORTED:
            raise unsupported(name, _UNSUPPORTED[name])
        if name not in known:
            text = f"Unknown parameter: '{shown(name)}'.{did_you_mean(name, known)}"
            raise invalid(text, shown(name), "unknown_parameter")
        if len(values) > 1:
            raise invalid(f"'{name}' is given {len(values)} times; give it once.", name)
    level = given.get("level", "1")
    if level not in map(str, LEVELS):
        raise invalid(f"'level' is '{shown(level)}'; it must be 1 (weights to a file) or 2 (discard them).", "level")
    return SleepQuery(given.get("model"), int(level))


def encode_is_sleeping(*, is_sleeping: bool) -> bytes:
    """The body of the answer to `/is_sleeping`."""
    return msgspec.json.encode({"is_sleeping": is_sleeping})
