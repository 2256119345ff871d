"""`ChatOpenAI` with the address of `servery serve`, which serves amuse, under LangChain's standard tests.

Run by `python -m conformance langchain`, in an environment that has `langchain-tests`; SERVERY_URL is the address. What is
marked as failing asks amuse, a model of 2.6 million parameters, for more than it can do, in a way that LangChain's tests
provide for. Off, because nothing here reads or writes them: images, PDFs, audio, video.
"""

import json
import os
import urllib.request
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel  # type: ignore[import-not-found]
from langchain_openai import ChatOpenAI  # type: ignore[import-not-found]
from langchain_tests.integration_tests import ChatModelIntegrationTests  # type: ignore[import-not-found]

URL = os.environ["SERVERY_URL"]
# Inside a string that it has not been taught to write, amuse goes on and on. That much is added to the logits of the
# tokens that end one, so that forced calls and documents come to an end.
_END_BIAS = 6
_ENDS = ('"', '",', '"}', '"}}')
_TOO_SMALL = "amuse calls only functions like those of its training, and fills in numbers of its own"


def _tokens(text: str) -> list[int]:
    body = json.dumps({"prompt": text, "add_special_tokens": False}).encode()
    request = urllib.request.Request(f"{URL}/tokenize", body, {"content-type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        found: list[int] = json.load(answer)["tokens"]
    return found


# Asked for once: some of the tests let nobody but the client use the network.
_LOGIT_BIAS = {str(ids[0]): _END_BIAS for ids in map(_tokens, _ENDS) if len(ids) == 1}


class TestServery(ChatModelIntegrationTests):  # type: ignore[misc]
    """The features: streams, batches, tools, forced calls, structured output by schema and by call, usage."""

    @property
    def chat_model_class(self) -> Any:
        """The class that is tested: nothing of our own."""
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        """What a user of `ChatOpenAI` writes; `stream_usage` has to be asked for with addresses other than OpenAI's."""
        return {
            "model": "amuse",
            "base_url": f"{URL}/v1",
            "api_key": "none",
            "temperature": 0,
            "max_tokens": 400,
            "stream_usage": True,
            "logit_bias": _LOGIT_BIAS,
        }

    @property
    def supports_json_mode(self) -> bool:
        """`response_format` json_object."""
        return True

    @pytest.mark.xfail(reason=_TOO_SMALL)
    def test_tool_calling(self, model: BaseChatModel) -> None:
        """The call is well-formed, with another number than that of the question."""
        super().test_tool_calling(model)

    @pytest.mark.xfail(reason=_TOO_SMALL)
    async def test_tool_calling_async(self, model: BaseChatModel) -> None:
        """As `test_tool_calling`."""
        await super().test_tool_calling_async(model)

    @pytest.mark.xfail(reason=_TOO_SMALL)
    def test_agent_loop(self, model: BaseChatModel) -> None:
        """Not forced to, amuse does not call this weather function."""
        super().test_agent_loop(model)

    @pytest.mark.xfail(reason=_TOO_SMALL)
    def test_unicode_tool_call_integration(self, model: BaseChatModel) -> None:
        """The call is there, with another name than the one in the question; amuse knows no Chinese."""
        super().test_unicode_tool_call_integration(model)

    @pytest.mark.xfail(reason="without a schema amuse writes JSON, but not with the keys that the question asks for")
    def test_json_mode(self, model: BaseChatModel) -> None:
        """The answer is a JSON object of other keys."""
        super().test_json_mode(model)
