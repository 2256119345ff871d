import pytest

from servery.engine.parsing.format import (
    REASONING_FORMATS,
    TOOL_FORMATS,
    MessageFormats,
    begins_in_reasoning,
    find_formats,
)


@pytest.mark.parametrize(
    ("template", "tools", "reasoning"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None, None),
        ("... <tool_call>\n{{ call }}\n</tool_call> ... <think> ... </think>", "hermes", "think"),
        ("{{ '[TOOL_CALLS]' }}", "mistral", None),
        ("[TOOL_CALLS] [THINK] [/THINK]", "mistral", "mistral"),
        ("Environment: ipython ... <|python_tag|>", "llama3", None),
        ("as [func_name1(params_name1=params_value1)] ... Environment: ipython", "pythonic", None),
    ],
)
def test_formats_are_found_in_the_template(template: str, tools: str | None, reasoning: str | None) -> None:
    expected = MessageFormats(
        TOOL_FORMATS[tools] if tools else None, REASONING_FORMATS[reasoning] if reasoning else None
    )

    assert find_formats([template]) == expected


def test_a_format_can_be_named_or_refused() -> None:
    assert find_formats(["<tool_call> </think>"], "mistral", "none") == MessageFormats(TOOL_FORMATS["mistral"], None)
    with pytest.raises(ValueError, match="no tool format 'xml'; use auto, none, hermes, mistral, pythonic or llama3"):
        find_formats([], "xml")


def test_the_prompt_may_have_begun_the_reasoning() -> None:
    think = REASONING_FORMATS["think"]

    assert begins_in_reasoning("<|assistant|><think>\n", think)
    assert not begins_in_reasoning("<|assistant|><think>\n\n</think>\n\n", think)
    assert not begins_in_reasoning("<think>", None)
