"""Complete answers of before, for when nobody answers now: bounded in bytes and in age, each its tenant's own."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from servery.config.types import EarlierPolicy
from servery.upstream.ask import Api, Ask
from servery.wire.usage import Usage

# How an answer is sent is no part of what is asked.
_SENDING = ("model", "stream", "stream_options")
_ALWAYS_THE_SAME = (Api.EMBEDDINGS, Api.RERANK)
# No single answer takes more than this part of the memory.
_LARGEST_PART = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """An answer as it was sent: whole events of a stream, without [DONE], or a body. `at_s` is a monotonic clock's."""

    data: bytes
    is_stream: bool
    includes_usage: bool
    usage: Usage | None
    at_s: float


class EarlierAnswers:
    """One model's. What was kept first leaves first."""

    def __init__(self, policy: EarlierPolicy) -> None:
        self.policy = policy
        self.bytes = 0
        self._answers: OrderedDict[bytes, Earlier] = OrderedDict()

    @property
    def largest_bytes(self) -> int:
        """The most that an answer may have to be kept."""
        return self.policy.memory_bytes // _LARGEST_PART

    def wants(self, ask: Ask) -> bool:
        """Whether answers to it are kept: those that would be the same again, or any."""
        return self.policy.is_any or ask.api in _ALWAYS_THE_SAME or ask.head.is_repeatable

    def keep(self, ask: Ask, answer: Earlier) -> None:
        """Take in a complete answer, in the place of an earlier one to the same."""
        if len(answer.data) > self.largest_bytes:
            return
        key = _key(ask, answer.is_stream, answer.includes_usage)
        self._drop(key)
        self._answers[key] = answer
        self.bytes += len(answer.data)
        while self.bytes > self.policy.memory_bytes or self._is_old(next(iter(self._answers.values())), answer.at_s):
            self._drop(next(iter(self._answers)))

    def find(self, ask: Ask, now: float) -> Earlier | None:
        """The answer to exactly this, sent the same way if there is one, else another way; None if there is none."""
        ways = [(True, True), (True, False), (False, False)]
        ways.sort(key=lambda way: way != (ask.is_stream, ask.head.include_usage))
        for way in ways:
            found = self._answers.get(_key(ask, *way))
            if found is not None and not self._is_old(found, now):
                return found
        return None

    def _is_old(self, answer: Earlier, now: float) -> bool:
        return now - answer.at_s > self.policy.max_age_s

    def _drop(self, key: bytes) -> None:
        dropped = self._answers.pop(key, None)
        self.bytes -= 0 if dropped is None else len(dropped.data)


def _key(ask: Ask, is_stream: bool, includes_usage: bool) -> bytes:
    """A digest of who asks what, and how it is sent."""
    way = b"stream" if is_stream else b"whole"
    usage = b"usage" if is_stream and includes_usage else b""
    headers = [f"{name}: {value}".encode() for name, value in sorted(ask.pass_headers)]
    asked = [part for name in sorted(ask.fields) if name not in _SENDING for part in (name.encode(), ask.fields[name])]
    parts = [ask.owner, ask.api.value.encode(), ask.head.model.encode(), way, usage, *headers, b"", *asked]
    digest = hashlib.blake2b(digest_size=24)
    for part in parts:
        digest.update(b"%d:" % len(bytes(part)))
        digest.update(part)
    return digest.digest()
