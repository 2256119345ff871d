"""What a core says went wrong, as its handle raises it."""

import signal

from servery.engine.channel import LoadFailed, Loading, Refused, SleepFailed
from servery.engine.config import EngineConfig
from servery.engine.errors import (
    CannotSleep,
    EngineError,
    InvalidRequest,
    LoadError,
    NotEnoughMemory,
    Overloaded,
    PromptTooLong,
    RequestFailed,
    UnknownAdapter,
)
from servery.engine.request import Output
from servery.engine.shortage import killed


def load_error(failed: LoadFailed) -> LoadError:
    """Why a model was not loaded."""
    return (
        LoadError(failed.message)
        if failed.needed_bytes is None
        else NotEnoughMemory(failed.message, failed.needed_bytes)
    )


def ended_while_loading(status: int | None, planned: Loading | None, config: EngineConfig) -> LoadError:
    """Why, when the process ended without a word; `planned` is what it had said before."""
    if status == -signal.SIGKILL and planned is not None:
        return NotEnoughMemory(killed(config, planned.text), planned.needed_bytes)
    return LoadError(f"the engine process ended with status {status} while it loaded {config.model}.")


def sleep_error(failed: SleepFailed) -> CannotSleep | NotEnoughMemory:
    """Why a model did not fall asleep, or did not wake."""
    if failed.needed_bytes is None:
        return CannotSleep(failed.message)
    return NotEnoughMemory(failed.message, failed.needed_bytes)


def request_error(output: Output) -> EngineError:
    """Why a request ended with an error."""
    message = output.error or "the engine failed while computing this request."
    if output.retry_after_s is not None:
        return Overloaded(message, output.retry_after_s)
    if output.invalid_param is not None:
        return InvalidRequest(message, output.invalid_param)
    return RequestFailed(message)


def refusal(refused: Refused) -> EngineError:
    """Why a request was not taken."""
    if refused.kind == Overloaded.__name__:
        return Overloaded(refused.message, refused.retry_after_s)
    if refused.kind == PromptTooLong.__name__:
        return PromptTooLong(refused.message, refused.param)
    if refused.kind == UnknownAdapter.__name__:
        return UnknownAdapter(refused.message, refused.param)
    return InvalidRequest(refused.message, refused.param)
