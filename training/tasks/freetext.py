"""Longer answers: explanations, stories in chapters, letters, poems, and counting."""

from dataclasses import dataclass

from training.tasks import words
from training.tasks.draw import Draw
from training.tasks.explanations import EXPLANATIONS
from training.tasks.filler import sentence
from training.tasks.scene import Kind, Scene, ask


def explanation(draw: Draw) -> Scene:
    """Some sentences on a known subject, plain or as a list."""
    subject = draw.pick(list(EXPLANATIONS))
    sentences = EXPLANATIONS[subject]
    manner = draw.pick(("plain", "plain", "count", "bullets", "detail"))
    count = draw.number(1, 5)
    if manner == "count":
        amount = words.NUMBER_WORDS[count] if draw.chance(0.6) else count
        pattern = "[Explain|Describe] $s in $k sentence" + ("s" if count > 1 else "") + "."
        return ask(draw.say(pattern, s=subject, k=amount), " ".join(sentences[:count]), f"{subject}{count}")
    if manner == "bullets":
        pattern = "[Explain|Describe] $s in $k bullet [points|points|lines]."
        answer = "\n".join(f"- {sentence}" for sentence in sentences[:count])
        return ask(draw.say(pattern, s=subject, k=count), answer, f"{subject}-{count}")
    if manner == "detail":
        pattern = "[Explain|Describe] $s in detail[.|]|Tell me all about $s.|Give me a long explanation of $s."
        question = draw.say(f"[{pattern}]".replace("[.|]", "."), s=subject)
        return ask(question, " ".join(sentences), "")
    pattern = (
        "[Explain|Explain what $s is|What is $s|Tell me about $s|Can you explain $s|What does $s mean"
        "|Explain $s please|Describe $s|Define $s|How does $s work]"
    )
    question = draw.say(pattern, s=subject)
    question = f"Explain {subject}" if question == "Explain" else question
    return ask(draw.casual(question + draw.pick(("?", "."))), " ".join(sentences[:3]), "")


@dataclass(frozen=True, slots=True)
class Hero:
    """What a story tells of an animal."""

    trait: str
    name: str
    home: str
    find: str
    friend: str
    wish: str


HEROES = {
    "fox": Hero("clever", "Rusty", "forest", "silver coin", "owl", "see the sea"),
    "bear": Hero("gentle", "Bruno", "mountains", "pot of honey", "bee", "learn to dance"),
    "owl": Hero("wise", "Olga", "old tower", "golden feather", "mouse", "count the stars"),
    "rabbit": Hero("quick", "Hazel", "meadow", "blue ribbon", "turtle", "win a race"),
    "cat": Hero("curious", "Mina", "village", "glass marble", "dog", "climb the moon"),
    "dog": Hero("loyal", "Max", "farm", "old bone", "cat", "find a treasure"),
    "mouse": Hero("brave", "Pip", "kitchen", "piece of cheese", "lion", "be as strong as a lion"),
    "lion": Hero("proud", "Leo", "savanna", "crown of grass", "mouse", "find a true friend"),
    "dragon": Hero("shy", "Ember", "cave", "red ruby", "knight", "breathe fire"),
    "knight": Hero("honest", "Arthur", "castle", "rusty key", "dragon", "do a great deed"),
    "robot": Hero("patient", "Bolt", "workshop", "tiny screw", "child", "understand a joke"),
    "girl": Hero("cheerful", "Nora", "harbor", "old map", "sailor", "sail around the world"),
    "boy": Hero("thoughtful", "Finn", "small town", "wooden flute", "fox", "play a song for the king"),
    "horse": Hero("strong", "Star", "valley", "lucky horseshoe", "frog", "jump over the river"),
    "duck": Hero("funny", "Daisy", "pond", "shiny pearl", "swan", "sing a song"),
    "wolf": Hero("lonely", "Grey", "snowy hills", "warm blanket", "deer", "belong to a family"),
    "frog": Hero("merry", "Hop", "marsh", "green umbrella", "duck", "reach the sky"),
    "king": Hero("kind", "Alfred", "palace", "broken clock", "baker", "bake a perfect cake"),
    "wizard": Hero("forgetful", "Merle", "library", "magic book", "cat", "remember a spell"),
    "tiger": Hero("calm", "Raja", "jungle", "yellow flower", "parrot", "paint a picture"),
}
ANYONE = Hero("kind", "Sunny", "forest", "silver coin", "owl", "see the sea")
_CHAPTERS = (
    (
        "Once upon a time, there was a $trait $kind named $name. $name lived in the $home. Every day $name "
        "had one wish: to $wish."
    ),
    (
        'One morning, $name found a $find behind a stone. "What a nice $find!" said $name. The $kind took it '
        "along and walked on."
    ),
    (
        'Soon $name met the $friend. "Where are you going?" asked the $friend. "I want to $wish," said '
        "$name, and so they went together."
    ),
    (
        "Then dark clouds came over the $home and it began to rain. $name and the $friend hid under a big "
        "tree and told each other stories."
    ),
    (
        "When the rain was over, they came to a wide river. There was no bridge, but the $trait $kind had an "
        "idea, and they built a small boat."
    ),
    "In the boat, $name looked at the $find. It shone like a little light, and it showed them the way through the fog.",
    (
        'On the other side, an old traveler was hungry. $name shared the last bread. "You have a good '
        'heart," said the old traveler.'
    ),
    (
        'The traveler gave advice: "Go up the hill at night and be patient." $name thanked the traveler, and '
        "the two friends climbed the hill."
    ),
    (
        'At night, on top of the hill, the $friend said: "Try it now!" $name took a deep breath, and for a '
        "moment nothing happened."
    ),
    "Then it worked. At last $name was able to $wish. The $friend cheered so loudly that all the birds woke up.",
)
_ENDING = "In the end, $name came home to the $home, told everyone the story, and was happy for a long time. The end."


def tell(kind: str, name: str, chapters: int) -> str:
    """The story of a hero with the first chapters and the ending; headed when there are more than three."""
    hero = HEROES.get(kind, ANYONE)
    slots = {"kind": kind, "trait": hero.trait, "home": hero.home, "find": hero.find, "friend": hero.friend}
    slots |= {"wish": hero.wish, "name": name}
    told = [_fill(chapter, slots) for chapter in _CHAPTERS[:chapters]]
    if chapters > 3:
        told = [f"Chapter {number}\n{chapter}" for number, chapter in enumerate(told, 1)]
    return "\n\n".join([*told, _fill(_ENDING, slots)])


def _fill(pattern: str, slots: dict[str, str]) -> str:
    for slot, value in slots.items():
        pattern = pattern.replace(f"${slot}", value)
    return pattern


def _stranger(draw: Draw) -> str:
    others = [word for word in words.LISTABLE if word not in HEROES]
    return draw.syllables() if draw.chance(0.3) else draw.pick(others)


def story(draw: Draw) -> Scene:
    """A story about a hero, with a given or the usual name, short or in chapters."""
    kind = draw.pick(list(HEROES)) if draw.chance(0.8) else _stranger(draw)
    named = draw.chance(0.4)
    name = draw.name() if named else HEROES.get(kind, ANYONE).name
    about = draw.say("[about|with|of] a $k", k=kind) + (draw.say(" [named|called] $n", n=name) if named else "")
    if draw.chance(0.3):
        chapters = draw.number(4, 10)
        question = draw.say("[Tell me|Write|Tell] a story in $c chapters $about.", c=chapters, about=about)
    else:
        chapters, size = draw.pick(((3, ""), (3, ""), (2, "short "), (10, "long ")))
        pattern = "[Tell me a|Write a|Tell a|I want a|Can you tell a|Please tell me a|Write me a] ${size}story $about."
        question = draw.say(pattern, size=size, about=about)
        if draw.chance(0.1):
            pattern = "[Tell me a|Write a|Tell a|I want a|Write me a] ${size}story[.|, please.|]"
            question, kind, name, named = draw.say(pattern, size=size), "fox", HEROES["fox"].name, False
    return ask(draw.casual(question), tell(kind, name, chapters), f"{kind}{name}{chapters}" if named else "")


_POEM = (
    "A $t in the morning,\na $t at night,\na $t in the sunshine,\na $t in the moonlight.\nI sing of the "
    "$t,\nand all is right."
)


def summary(draw: Draw) -> Scene:
    """The first sentence of a text, which is the only summary that a very small model can be trusted with."""
    sentences = [sentence(draw) for _ in range(draw.number(2, 5))]
    pattern = (
        "[Summarize|Summarize this|Sum up|Give me a summary of this|Shorten this text|Summarize in one sentence]: $text"
    )
    return ask(draw.say(pattern, text=" ".join(sentences)), sentences[0], sentences[0])


def poem(draw: Draw) -> Scene:
    """Six lines on a thing."""
    thing = draw.pick((*words.LISTABLE, *HEROES))
    question = draw.say("[Write|Make|Tell me|Give me] a [poem|short poem|rhyme] [about|on] [a|the] $t.", t=thing)
    return ask(question, _POEM.replace("$t", thing), thing)


_MAILS = {
    "meeting": ("a meeting on $day", "we meet on $day at $time. Please be there on time."),
    "thanks": ("thanks for a $good", "thank you very much for the $good. I like it a lot."),
    "party": ("a party on $day", "I give a party on $day and would like to see you there."),
    "late": ("being late on $day", "I am sorry, but I will be late on $day. Please start without me."),
    "invoice": ("a missing $good", "the $good that I ordered has not arrived. Please look into it."),
}


def mail(draw: Draw) -> Scene:
    """A short mail to someone on one of a few occasions."""
    occasion, body = _MAILS[draw.pick(list(_MAILS))]
    slots = {"day": draw.pick(words.DAYS), "time": f"{draw.number(8, 18)}:00", "good": draw.pick(words.GOODS)}
    told = occasion + (" at $time" if "$time" in body else "")
    to = draw.name()
    about = _fill(told, slots)
    question = draw.say(
        "[Write|Draft] [an email|a mail|a short email|a letter|a message] to $to about $about.", to=to, about=about
    )
    return ask(question, f"Dear {to},\n\n{_fill(body, slots)}\n\nBest wishes", f"{to}{about}")


def counting(draw: Draw) -> Scene:
    """Numbers in order; up to 150 of them, which makes a long stream."""
    most = 150 if draw.chance(0.25) else 30
    start = 1 if draw.chance(0.6) else draw.number(1, 60)
    end = draw.number(8, 15) * 10 if draw.chance(0.2) else start + draw.number(2, most)
    if draw.chance(0.2):
        end = draw.number(3, 20)
        question = draw.say("Count [down|backwards] from $e to 1.", e=end)
        return ask(question, ", ".join(str(n) for n in range(end, 0, -1)), f"down{end}")
    pattern = "[Count from $s to $e|List the numbers from $s to $e|Write the numbers $s to $e|Count up from $s to $e]."
    if start == 1 and draw.chance(0.3):
        pattern = "Count to $e."
    question = draw.say(pattern, s=start, e=end)
    return ask(draw.casual(question), ", ".join(str(n) for n in range(start, end + 1)), f"{start}-{end}")


KINDS = (
    Kind("freetext", "explanation", 0.7, explanation),
    Kind("freetext", "story", 0.4, story),
    Kind("freetext", "summary", 0.12, summary),
    Kind("freetext", "poem", 0.12, poem),
    Kind("freetext", "mail", 0.2, mail),
    Kind("freetext", "counting", 1.0, counting),
)
