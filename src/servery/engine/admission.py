"""What a request must satisfy to be taken at all, and the sequences it becomes.

Here is judged what depends on the request and the configuration alone; how full the queue is, `waiting.py` knows.
"""

import hashlib
import struct

from servery.engine.blocks import chain, chain_root
from servery.engine.errors import InvalidRequest, PromptTooLong
from servery.engine.request import NewRequest, Sequence
from servery.engine.scheduler_config import SchedulerConfig


def check_servable(request: NewRequest, config: SchedulerConfig) -> None:
    """Raise `InvalidRequest` or `PromptTooLong`, naming all numbers, if the request can never be served as it is."""
    prompt_len, limit = len(request.prompt), config.max_model_len
    if not request.prompt:
        raise InvalidRequest("the prompt has no tokens; it needs at least one.", "prompt")
    if min(request.prompt) < 0 or max(request.prompt) >= config.vocab_size:
        raise InvalidRequest(
            f"the prompt has token ids from {min(request.prompt)} to {max(request.prompt)}; "
            f"this model's ids are 0 to {config.vocab_size - 1}.",
            "prompt",
        )
    if request.pooling:
        if prompt_len > limit:
            raise PromptTooLong(f"the input has {prompt_len} tokens; this model takes at most {limit}.", "input")
        return
    if prompt_len >= limit:
        raise PromptTooLong(
            f"the prompt has {prompt_len} tokens and the context is {limit}, answer included; "
            f"shorten the prompt to at most {limit - 1} tokens.",
            "prompt",
        )
    max_tokens = request.params.max_tokens
    if max_tokens is not None and prompt_len + max_tokens > limit:
        raise PromptTooLong(
            f"the prompt has {prompt_len} tokens and max_tokens is {max_tokens}, {prompt_len + max_tokens} together; "
            f"the context is {limit}: shorten the prompt or lower max_tokens to at most {limit - prompt_len}.",
            "max_tokens",
        )


def sequences_of(
    request: NewRequest, seed: int, config: SchedulerConfig, *, arrival: float, first_order: int
) -> list[Sequence]:
    """The sequences of a servable request: n of them, one for pooling, which share the prompt's digests."""
    count = 1 if request.pooling else request.params.n
    root = _root(request, config, count, first_order)
    digests = _prompt_digests(request.prompt, root, config.block_size) if root else []
    stop_ids = frozenset(request.params.stop_token_ids)
    if not request.params.ignore_eos:
        stop_ids |= config.eos_token_ids
    max_tokens = request.params.max_tokens
    max_len = config.max_model_len if max_tokens is None else len(request.prompt) + max_tokens
    sequences = []
    for index in range(count):
        sequence = Sequence(request, index, derive_seed(seed, index), arrival)
        sequence.order = first_order + index
        sequence.root = root
        sequence.digests = digests.copy()
        sequence.stop_ids = stop_ids
        sequence.max_len = max_len
        sequence.is_prompt_reported = index > 0  # the first completion reports the prompt for all
        sequences.append(sequence)
    return sequences


def derive_seed(seed: int, index: int) -> int:
    """The seed of completion `index`: the request's own for the first, independent ones for the others."""
    if index == 0:
        return seed
    key = struct.pack("<Q", seed % 2**64) + struct.pack("<I", index)
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def _root(request: NewRequest, config: SchedulerConfig, count: int, order: int) -> bytes:
    """Where the request's chain starts; empty when nobody could ever use its blocks."""
    if config.enable_prefix_cache:
        # An adapter that is loaded again has another id: what its predecessor computed is never found.
        return chain_root(config.model_id, b"shared" + struct.pack("<Q", request.adapter) + request.cache_salt)
    # Without a prefix cache, completions of one request still share its prompt, and nobody else does.
    return chain_root(config.model_id, b"private" + struct.pack("<Q", order)) if count > 1 else b""


def _prompt_digests(prompt: list[int], root: bytes, block_size: int) -> list[bytes]:
    digests = []
    for end in range(block_size, len(prompt) + 1, block_size):
        root = chain(root, prompt[end - block_size : end])
        digests.append(root)
    return digests
