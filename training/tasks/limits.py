"""Requests that are too large: the answer says so instead of running on."""

from training.tasks import words
from training.tasks.draw import Draw
from training.tasks.scene import Kind, Scene, ask

_TOO_LARGE = {
    "I can only calculate with up to four digits.": (
        "[What is|Compute|How much is|] $huge [+|-|plus|minus|x|/|times] $huge2[?|]",
        "[What is|Compute|] $huge [+|-|x] $small[?|]",
        "[Which is larger|What is bigger], $huge or $huge2?",
    ),
    "I can only multiply by one digit.": (
        "[What is|Compute|How much is|Calculate|] $two [x|*|times|multiplied by] $two2[?|]",
        "[What is|Compute|How much is|Calculate|] $three [x|*|times] $small[?|]",
    ),
    "I can count at most 200 numbers.": (
        "[Count|List the numbers|Write the numbers|Write all numbers] [from 1 |]to $many.",
        "[Count|Count up|List the numbers|Write all numbers] from $first to $many.",
        "Count from $first to $many[.|]",
        "[Print|Tell me|Show|I want] [all |the |]numbers [from 1 to|up to] $many.",
        "Count [forever|without end|as far as you can|to infinity].",
    ),
    "I can tell at most 10 chapters.": (
        "[Tell me|Write] [a story|a book|a novel] [in|with] $dozens chapters[ about a $thing|].",
        "[Write|Tell me] [a story|a novel] of $many [pages|words|chapters].",
    ),
    "I can list at most 7 things.": (
        "[List|Name|Give me|Write] $dozens [fruits|animals|colors|cities|jobs|names|things|words|ideas].",
        "[List|Name|Give me] all [fruits|animals|colors|cities|jobs|names|things|words].",
    ),
    "I say things only once.": (
        (
            "[Say|Write|Repeat|Type|Print] [the word |]$thing "
            "[$dozens times|$many times|without end|for ever|until I stop you]."
        ),
        "[Keep|Do not stop|Go on] [saying|writing|repeating] $thing.",
    ),
}


def too_large(draw: Draw) -> Scene:
    """More digits, numbers, chapters or things than the other tasks were made for."""
    answer = draw.pick(list(_TOO_LARGE))
    question = draw.say(
        draw.pick(_TOO_LARGE[answer]),
        huge=draw.number(10_000, 10 ** draw.number(5, 9)),
        huge2=draw.number(10_000, 10 ** draw.number(5, 9)),
        small=draw.number(11, 99),
        first=draw.number(2, 10 ** draw.number(1, 4)),
        two=draw.number(11, 99),
        two2=draw.number(11, 99),
        three=draw.number(100, 999),
        many=draw.number(260, 10 ** draw.number(3, 7)),
        dozens=draw.number(12, 99),
        thing=draw.pick(words.LISTABLE),
    )
    return ask(draw.casual(question), answer, question)


KINDS = (Kind("smalltalk", "too_large", 1.2, too_large),)
