"""Questions have one right answer, the same on every machine, and evaluation content is never trained on."""

import json
import re
from random import Random

import pytest

from training.mix import KINDS, STRATA, dialogues, examination
from training.tasks.draw import Draw
from training.tasks.scene import Kind, is_held_out
from training.tasks.topics import TOPICS

EACH_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def test_a_shard_is_the_same_each_time_and_unlike_the_next() -> None:
    assert dialogues(1, 0, 50, 0.5) == dialogues(1, 0, 50, 0.5)
    assert dialogues(1, 0, 50, 0.5) != dialogues(1, 1, 50, 0.5)


def test_the_split_does_not_depend_on_the_process() -> None:
    assert [key for key in map(str, range(60)) if is_held_out(key)] == ["6", "37", "40"]


@EACH_KIND
def test_training_never_sees_held_out_content(kind: Kind) -> None:
    train, test = Draw(Random(1)), Draw(Random(1), held_out=True)
    trained = {kind.scene(train).key for _ in range(40)} - {""}
    examined = {kind.scene(test).key for _ in range(40)} - {""}
    assert not trained & examined


def test_one_support_wording_in_five_is_kept_apart_for_each_topic() -> None:
    train, test = Draw(Random(1)), Draw(Random(1), held_out=True)
    for topic in TOPICS.values():
        trained = {train.pattern(topic.wordings) for _ in range(300)}
        examined = {test.pattern(topic.wordings) for _ in range(300)}
        assert trained | examined == set(topic.wordings)
        assert not trained & examined


@EACH_KIND
def test_answers_are_written_and_slots_are_filled(kind: Kind) -> None:
    for conversation in examination(kind, 60):
        for turn in conversation.turns:
            assert turn.answer.strip() == turn.answer != ""
            assert not re.search(r"\$[a-z]", turn.answer + conversation.system)


def test_every_written_equation_is_true() -> None:
    equation = re.compile(r"(\d+(?: [-+x/] \d+)+) = (\d+)")
    checked = 0
    for kind in (kind for kind in KINDS if kind.stratum in ("arithmetic", "reasoning") or kind.name == "units"):
        for conversation in examination(kind, 100):
            for left, right in equation.findall(conversation.turns[0].answer):
                if not left.startswith("1 "):
                    assert eval(left.replace("x", "*").replace("/", "//")) == int(right), conversation
                    checked += 1
    assert checked > 500


def test_json_answers_are_json() -> None:
    for kind in (kind for kind in KINDS if kind.name in ("json_person", "json_order")):
        for conversation in examination(kind, 50):
            assert json.loads(conversation.turns[0].answer)


def test_context_answers_are_in_the_context_or_say_so() -> None:
    [kind] = (kind for kind in KINDS if kind.name == "short_text")
    missing = 0
    for conversation in examination(kind, 200):
        text = (conversation.system + conversation.turns[0].question).lower()
        for turn in conversation.turns:
            missing += "not in the context" in turn.answer
            words = set(re.findall(r"\w+", turn.answer.lower())) - {"the", "of", "is", "not", "in", "context"}
            words -= {
                "city",
                "job",
                "pet",
                "color",
                "age",
                "price",
                "day",
                "customer",
                "content",
                "floor",
                "time",
                "owner",
            }
            assert words <= set(re.findall(r"\w+", text + turn.question.lower())), turn
    assert missing > 20


def test_strata() -> None:
    assert STRATA == (
        "arithmetic", "reasoning", "format", "context", "lookup", "support", "long", "smalltalk", "freetext", "tools",
    )  # fmt: skip
