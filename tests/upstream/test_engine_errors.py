"""What the engine raises reaches the client with a status, and with the parameter's name as the client wrote it."""

import pytest

from servery.engine.errors import EngineDead, EngineError, InvalidRequest, Overloaded, PromptTooLong, RequestFailed
from servery.upstream.engine_errors import api_error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (InvalidRequest("top_k is -2; it is wrong.", "top_k"), (400, "'top_k' is -2; it is wrong.", "top_k")),
        (InvalidRequest("the prompt is odd.", "prompt"), (400, "The prompt is odd.", "prompt")),
        (InvalidRequest("nothing is right."), (400, "Nothing is right.", None)),
        (PromptTooLong("the prompt is long.", "prompt"), (400, "The prompt is long.", "messages")),
        (Overloaded("the queue is full.", 2.0), (429, "The queue is full.", None)),
        (EngineDead("the engine is gone."), (503, "The engine is gone.", None)),
        (RequestFailed("the step failed."), (500, "The step failed.", None)),
    ],
)
def test_each_error_has_a_status_a_sentence_and_a_parameter(
    error: EngineError, told: tuple[int, str, str | None]
) -> None:
    answer = api_error(error, "messages")
    assert (answer.status, answer.message, answer.param) == told
