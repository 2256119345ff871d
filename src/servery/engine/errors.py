"""The errors of the engine: each says what was given, the limit, and what to do.

EngineError
├── InvalidRequest         the caller's fault: the request can never be served as it is
│   ├── UnknownAdapter     a LoRA adapter that is not loaded
│   └── PromptTooLong      more tokens than the context or the KV cache can ever hold
├── Overloaded             the queue is full or the deadline cannot be met; try again after `retry_after_s`
├── EngineDead             the engine process is gone or restarting
├── RequestFailed          a step failed while this request ran
├── CannotSleep            the model cannot leave memory now
├── IntegrityError         the engine's own books do not add up: a bug, found by a check
└── LoadError              a model or an adapter cannot be loaded: a file, its content, its kind
    ├── BadAdapterName     an adapter cannot be called so
    └── NotEnoughMemory    there is not the memory for it
"""


class EngineError(Exception):
    """Base of everything the engine raises on purpose."""


class InvalidRequest(EngineError):
    """The request can never be served as it is.

    `param` names the offending parameter as the client wrote it (`"top_p"`), or None.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class PromptTooLong(InvalidRequest):
    """The prompt, or prompt + max_tokens, exceeds what the model or the KV cache can hold."""


class UnknownAdapter(InvalidRequest):
    """No LoRA adapter of that name is loaded; the message names those that are."""


class Overloaded(EngineError):
    """Admission is bounded and the bound is reached; `retry_after_s` estimates when to try again."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineDead(EngineError):
    """The engine process has died or is restarting; requests under way are lost."""


class RequestFailed(EngineError):
    """The engine failed while this request was running."""


class CannotSleep(EngineError):
    """The model stays in memory; the message says why and what to do."""


class IntegrityError(EngineError):
    """The engine's own books do not add up: a bug. The message has every figure."""


class LoadError(EngineError):
    """The model, or an adapter for it, cannot be loaded; the message names the file and what to do."""


class BadAdapterName(LoadError):
    """The adapter's name cannot be one, or is taken; its files have not been looked at."""


class NotEnoughMemory(LoadError):
    """The model needs `needed_bytes`, which are not to be had; the message says what needs less."""

    def __init__(self, message: str, needed_bytes: int) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes
