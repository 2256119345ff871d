"""Which deployments have seen the beginning of a prompt before, and so may have its KV.

A prompt is told by the bytes of its fields as the client wrote them, in blocks, each block's digest taking in those before
it. No token is counted for it: a conversation's next turn repeats the bytes of the turns before.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import msgspec

BLOCK_BYTES = 512
# Beyond this a prompt's beginning says enough, and digests take time: 40 microseconds for 64 KiB.
MAX_BLOCKS = 128
# In the order in which chat templates write them.
PROMPT_FIELDS = ("tools", "system", "instructions", "messages", "input", "prompt", "inputs", "query", "documents")
# Bytes of JSON per token: English prose has about four letters to a token, and JSON's own signs are few.
_BYTES_PER_TOKEN = 4.0

Prefix = tuple[bytes, ...]


def prompt_prefix(fields: Mapping[str, msgspec.Raw], owner: bytes = b"") -> Prefix:
    """The digests of a prompt's whole blocks; two of different `owner`s never meet, as their caches do not."""
    text = b"".join(bytes(fields[name]) for name in PROMPT_FIELDS if name in fields)
    digest, prefix = owner, []
    for start in range(0, min(len(text) // BLOCK_BYTES, MAX_BLOCKS) * BLOCK_BYTES, BLOCK_BYTES):
        digest = hashlib.blake2b(text[start : start + BLOCK_BYTES], digest_size=8, key=digest[:64]).digest()
        prefix.append(digest)
    return tuple(prefix)


def cached_tokens(blocks: int) -> int:
    """About how many tokens so many blocks have."""
    return round(blocks * BLOCK_BYTES / _BYTES_PER_TOKEN)


class PrefixIndex:
    """The prompts that each deployment was sent, the latest of them: `max_blocks` blocks a deployment."""

    def __init__(self, max_blocks: int = 50_000) -> None:
        self._seen: dict[str, OrderedDict[bytes, None]] = {}
        self._max_blocks = max_blocks

    def matched(self, deployment: str, prefix: Prefix) -> int:
        """How many of the prompt's first blocks the deployment was sent before."""
        seen = self._seen.get(deployment, ())
        low, high = 0, len(prefix)
        while low < high:  # a block is never forgotten before those behind it
            middle = (low + high + 1) // 2
            if prefix[middle - 1] in seen:
                low = middle
            else:
                high = middle - 1
        return low

    def add(self, deployment: str, prefix: Prefix) -> None:
        """The deployment was sent this prompt."""
        seen = self._seen.setdefault(deployment, OrderedDict())
        for digest in reversed(prefix):  # the first block becomes the youngest
            seen[digest] = None
            seen.move_to_end(digest)
        while len(seen) > self._max_blocks:
            seen.popitem(last=False)

    def forget(self, deployment: str) -> None:
        """The deployment's cache is gone: it was started again."""
        self._seen.pop(deployment, None)


def rendezvous(names: Sequence[str], key: bytes) -> list[str]:
    """The names in an order that depends on `key` alone, so that every worker sends the same prompts the same way.

    Highest random weight (Thaler and Ravishankar 1998): when a name goes, only its own keys move.
    """

    def weight(name: str) -> bytes:
        return hashlib.blake2b(name.encode(), digest_size=8, key=key[:64]).digest()

    return sorted(names, key=weight, reverse=True)
