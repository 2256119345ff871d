"""Which models are asked instead, by what went wrong. Pure."""

from collections.abc import Sequence

from servery.config.types import Fallbacks
from servery.upstream.failure import UpstreamFailure, is_content_policy, is_context_window
from servery.wire.errors import ApiError


def stand_ins(fallbacks: Fallbacks, error: Exception) -> Sequence[str]:
    """The models to ask instead, in their order; none for an error that they would give too.

    A prompt that is too long and one that was refused for its content have chains of their own: a smaller model mends
    neither.
    """
    told = error.error if isinstance(error, UpstreamFailure) else error
    if isinstance(told, ApiError) and is_context_window(told):
        return fallbacks.context_window
    if isinstance(told, ApiError) and is_content_policy(told):
        return fallbacks.content_policy
    if isinstance(error, UpstreamFailure) and error.may_go_elsewhere:
        return fallbacks.error
    return ()
