"""A conversation holds what the next request needs, and survives being saved."""

from pathlib import Path

import pytest

from servery.chat.conversation import Conversation, ConversationError, Message


def turns(*contents: str) -> list[Message]:
    return [Message(("user", "assistant")[index % 2], content) for index, content in enumerate(contents)]


def test_messages_are_the_system_prompt_and_the_turns() -> None:
    talk = Conversation("Be brief.", turns("a", "b"))
    talk.ask("c")
    assert talk.messages() == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]


def test_a_question_without_answer_is_put_aside_and_can_be_retried() -> None:
    talk = Conversation(turns=turns("a", "b"))
    talk.ask("c")
    talk.answer("")
    assert talk == Conversation(turns=turns("a", "b"), unanswered="c")
    assert talk.take_back() == "c"
    talk.ask("c")
    talk.answer("d")
    assert talk == Conversation(turns=turns("a", "b", "c", "d"))


def test_taking_back_removes_the_last_question_with_its_answer() -> None:
    talk = Conversation("s", turns("a", "b", "c", "d"))
    assert (talk.take_back(), talk) == ("c", Conversation("s", turns("a", "b")))


def test_nothing_can_be_taken_back_before_the_first_question() -> None:
    with pytest.raises(ConversationError, match="no question yet"):
        Conversation("s").take_back()


def test_a_reset_keeps_the_system_prompt() -> None:
    talk = Conversation("s", turns("a", "b"), unanswered="c")
    talk.reset()
    assert talk == Conversation("s")


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, system: str | None) -> None:
    talk = Conversation(system, turns("ä\n", '"quoted"'))
    talk.save(tmp_path / "talk.json", "amuse")
    assert Conversation.load(tmp_path / "talk.json") == talk


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no saved conversation"),
        ("[]", "no saved conversation"),
        ('{"messages": [{"role": "user"}]}', "missing required field `content`"),
        ('{"messages": [{"role": "user", "content": [1]}]}', "Expected `str`"),
        ('{"messages": [{"role": "tool", "content": "x"}]}', "has the role 'tool'"),
    ],
)
def test_another_file_is_refused_with_its_name_and_the_reason(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "talk.json").write_text(text)
    with pytest.raises(ConversationError, match=r"talk\.json") as caught:
        Conversation.load(tmp_path / "talk.json")
    assert complaint in str(caught.value)
