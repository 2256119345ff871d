import asyncio
from pathlib import Path

import pytest

from servery.engine.chat_template import ChatTemplate
from servery.engine.tokenizer import Tokenizer
from servery.upstream.prompt import PromptEncoder
from servery.wire.chat import TextPart, UserMessage
from servery.wire.errors import ApiError
from servery.wire.images import ImagePart, ImageUrl
from tests.upstream.fake_engine import VOCAB, save_checkpoint


def test_a_chat_with_an_image_is_refused_before_it_is_rendered(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path)
    encoder = PromptEncoder("m", Tokenizer.load(checkpoint), ChatTemplate.load(checkpoint), VOCAB)
    message = UserMessage(content=[TextPart("see"), ImagePart(ImageUrl("https://a/b.png"))])

    with pytest.raises(ApiError, match="'image_url' parts cannot be read") as caught:
        asyncio.run(encoder.chat([message], [], add_generation_prompt=None, variables=None))

    assert (caught.value.status, caught.value.param) == (400, "messages[0].content[1]")
