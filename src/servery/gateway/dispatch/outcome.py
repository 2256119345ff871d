"""How one attempt at an answer ended."""

import msgspec

from servery.gateway.dispatch.deployment import Deployment
from servery.upstream.ask import Ask
from servery.upstream.failure import UpstreamFailure


class AttemptOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What is known when an attempt is over. Times are seconds from its being sent, None for what never came.

    `failure` is None for an answer that was whole, and for one whose client had gone (`is_abandoned`). Tokens are those
    of the prompt, of these those that a cache supplied, and those generated.
    """

    deployment: Deployment
    ask: Ask
    failure: UpstreamFailure | None
    is_abandoned: bool
    took_s: float
    ttft_s: float | None
    tpot_s: float | None
    prompt_tokens: int
    cached_tokens: int
    tokens: int
