"""What the engine raises, as clients are told it; the only place that knows both."""

import contextlib
from collections.abc import Iterator

from servery.engine.engine import AsyncEngine
from servery.engine.errors import EngineDead, EngineError, InvalidRequest, Overloaded, PromptTooLong, UnknownAdapter
from servery.wire.errors import ApiError, failed, invalid, rate_limited, unavailable

# Once it is started again, an engine is back in about this time when nothing is wrong with its model.
RESTART_S = 1.0


def api_error(error: EngineError, param: str | None = None, restart_in_s: float = 0.0) -> ApiError:
    """`error` for the client; `param` is its name for what the engine was given, where the engine has another.

    `restart_in_s` is when an engine that died is started again.
    """
    message = _sentence(str(error))
    if isinstance(error, UnknownAdapter):
        return ApiError(404, message, param=param or error.param, code="model_not_found")
    if isinstance(error, PromptTooLong):
        return invalid(message, param or error.param, "context_length_exceeded")
    if isinstance(error, InvalidRequest):
        return invalid(_quoted(str(error), error.param), error.param)
    if isinstance(error, Overloaded):
        return rate_limited(message, error.retry_after_s)
    if isinstance(error, EngineDead):
        return unavailable(message, restart_in_s + RESTART_S)
    return failed(message)


@contextlib.contextmanager
def engine_errors(param: str | None = None, engine: AsyncEngine | None = None) -> Iterator[None]:
    """Inside, errors of the engine become `ApiError`s; `engine` is the one that runs inside, if any."""
    try:
        yield
    except EngineError as error:
        raise api_error(error, param, engine.restart_in_s if engine else 0.0) from error


def _quoted(text: str, param: str | None) -> str:
    """A sentence, in which the name of a parameter at its beginning stays as the client wrote it."""
    if param is not None and text.startswith(f"{param} "):
        return f"'{param}'{text.removeprefix(param)}"
    return _sentence(text)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
