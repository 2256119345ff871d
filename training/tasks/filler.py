"""Sentences without a fact that anyone asks for: long system turns are made of them."""

from training.tasks import words
from training.tasks.draw import Draw

_SENTENCES = (
    "[Always|Please] be [polite|friendly|short|clear|patient|kind].",
    "[Never|Do not] talk about $topic.",
    "[Do not|Never] [make up answers|use slang|repeat yourself|guess].",
    "Keep [your answers|sentences|each answer] [short|simple|clear|to the point].",
    "The team meets on $day in the $place.",
    "$name [wrote|checked|read|approved] this [text|page|note] in $month.",
    "Our [company|team|office] was founded by $name in $city.",
    "We [like|sell|collect|make] [good|old|new|fine] ${good}s and ${good2}s.",
    "If [someone|a customer|a person] is [angry|sad|unsure], [stay calm|be kind|listen first|thank them].",
    "The $place is next to the $place2.",
    "$name [works|lives|was born] in $city[| and likes $topic].",
    "A [good|clear] answer has [one|two|three] sentences.",
    "The [colors|logos] of our [brand|page] are $color and $color2.",
    "[Many|Some|Most] people [ask|write|call] on $day.",
    "Write [in plain English|full sentences|without jargon].",
    "Last $month the $place was [painted|closed|renewed|moved].",
    "[Our|The] [mascot|animal] is a $color $animal named $name.",
    "[In the morning|In the evening|At noon] the $place is [quiet|busy|full|empty].",
)


def sentence(draw: Draw) -> str:
    """One sentence."""
    place, place2 = draw.some(words.PLACES, 2)
    good, good2 = draw.some(words.GOODS, 2)
    color, color2 = draw.some(words.COLOURS, 2)
    return draw.say(
        draw.pick(_SENTENCES), topic=draw.pick(words.TOPICS), day=draw.pick(words.DAYS), month=draw.pick(words.MONTHS),
        name=draw.name(), city=draw.pick(words.CITIES), animal=draw.pick(words.ANIMALS), place=place, place2=place2,
        good=good, good2=good2, color=color, color2=color2,
    )  # fmt: skip


def paragraph(draw: Draw, sentences: int) -> str:
    """Several sentences."""
    return " ".join(sentence(draw) for _ in range(sentences))


def long_system(draw: Draw, sentences: int) -> str:
    """A long system turn that has nothing to do with the questions."""
    lines = ["You are [a helpful assistant|a friendly assistant|an assistant of $shop|the assistant of a small shop]."]
    opening = draw.say(lines[0], shop=draw.syllables().capitalize())
    left = sentences
    parts = [opening]
    while left > 0:
        size = min(left, draw.number(1, 8))
        parts.append(("- " if draw.chance(0.3) else "") + paragraph(draw, size))
        left -= size
    return "\n".join(parts)
