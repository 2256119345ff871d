"""Questions over a given text. Answers restate the fact; what is not told is "not in the context"."""

from dataclasses import dataclass

from training.tasks import words
from training.tasks.draw import Draw
from training.tasks.scene import Kind, Scene, Turn


@dataclass(frozen=True, slots=True)
class Attribute:
    """One thing that is told of a subject: the sentence, ways to ask for it, and how it is called when missing."""

    name: str
    fact: str
    questions: tuple[str, ...]
    reverse: tuple[str, ...] = ()


_PERSON = (
    Attribute(
        "city", "$s lives in $v", ("[Where does $s live|In which city does $s live|What city does $s live in]?",),
        ("[Who lives in $v|Who is from $v]?",),
    ),
    Attribute(
        "job", "$s works as a $v", ("[What does $s do|What is the job of $s|What is $s's job|What does $s work as]?",),
        ("[Who works as a $v|Who is the $v|Who is a $v]?",),
    ),
    Attribute(
        "pet", "$s has a $v", ("[What pet does $s have|Which pet does $s have|What animal does $s have]?",),
        ("[Who has a $v|Who owns a $v]?",),
    ),
    Attribute(
        "color", "$s likes $v",
        ("[What color does $s like|Which color does $s like|What is the favorite color of $s]?",),
        ("Who likes $v?",),
    ),
    Attribute("age", "$s is $v years old", ("[How old is $s|What is the age of $s|What age is $s]?",)),
)  # fmt: skip
_ORDER = (
    Attribute("price", "$s costs $v dollars", ("[How much is $s|What does $s cost|What is the price of $s]?",)),
    Attribute("day", "$s arrives on $v", ("[When does $s arrive|On which day does $s arrive|When will $s come]?",)),
    Attribute("customer", "$s is for $v", ("[Who is $s for|Who gets $s|Who is the customer of $s]?",)),
    Attribute("content", "$s contains $v", ("[What is in $s|What does $s contain|What was ordered in $s]?",)),
)
_PLACE = (
    Attribute("floor", "$s is on floor $v", ("[Where is $s|On which floor is $s|What floor is $s on]?",)),
    Attribute("time", "$s opens at $v", ("[When does $s open|What time does $s open|At what time does $s open]?",)),
    Attribute("price", "$s costs $v dollars", ("[How much is $s|What does $s cost|What is the price of $s]?",)),
    Attribute("day", "$s is closed on $v", ("[When is $s closed|On which day is $s closed|What day is $s closed]?",)),
    Attribute("owner", "$s is run by $v", ("[Who runs $s|Who is in charge of $s|Who manages $s]?",)),
)
_FILLER = (
    "The weather was fine.",
    "Nobody was late.",
    "There was tea for everyone.",
    "This list was written last week.",
    "Please keep this text short.",
    "The rest is not important.",
    "All of them met once.",
    "Nothing else was said.",
)


def _value(draw: Draw, attribute: str) -> str:
    match attribute:
        case "city":
            return draw.pick(words.CITIES) if draw.chance(0.7) else draw.syllables().capitalize()
        case "job":
            return draw.pick(words.JOBS)
        case "pet":
            return draw.pick(words.ANIMALS)
        case "color":
            return draw.pick(words.COLOURS)
        case "age":
            return str(draw.number(18, 90))
        case "price":
            return str(draw.number(2, 99))
        case "day":
            return draw.pick(words.DAYS)
        case "customer" | "owner":
            return draw.name()
        case "content":
            return f"{draw.number(2, 20)} {draw.pick(words.THINGS)}"
        case "floor":
            return str(draw.number(1, 20))
        case _:
            return f"{draw.number(6, 11)}:{draw.pick(('00', '15', '30', '45'))}"


def _codes(draw: Draw, count: int) -> list[str]:
    codes: set[str] = set()
    while len(codes) < count:
        codes.add(f"{draw.pick('ABCDEFGHKLMNPRSTUVWXZ')}{draw.number(10, 99)}")
    return draw.shuffled(sorted(codes))


def _subjects(draw: Draw, kind: str, count: int) -> list[str]:
    if kind == "order":
        return [f"order {code}" for code in _codes(draw, count)]
    if kind == "place":
        return [f"the {place}" for place in draw.some(words.PLACES, count)]
    return draw.names(count)


@dataclass(frozen=True, slots=True)
class Table:
    """Subjects with the values that the text tells of them; the last subject is not in the text."""

    attributes: tuple[Attribute, ...]
    rows: dict[str, dict[str, str]]
    absent: str

    def sentences(self, draw: Draw) -> list[str]:
        """The text, one sentence per fact or one per subject, in row order."""
        found = []
        joined = draw.chance(0.4)
        for subject, values in self.rows.items():
            facts = [draw.say(a.fact, s=subject, v=values[a.name]) for a in self.attributes if a.name in values]
            found += [" and ".join(facts) + "."] if joined and len(facts) == 2 else [fact + "." for fact in facts]
        return [sentence[0].upper() + sentence[1:] for sentence in found]


def table(draw: Draw, rows: int, facts: int) -> Table:
    """A random table of one family: people, orders or places."""
    kind = draw.pick(("person", "person", "order", "place"))
    attributes = {"person": _PERSON, "order": _ORDER, "place": _PLACE}[kind]
    kept = tuple(draw.some(attributes, min(facts, len(attributes))))
    subjects = _subjects(draw, kind, rows + 1)
    told = {subject: {a.name: _value(draw, a.name) for a in kept} for subject in subjects[:-1]}
    return Table(attributes, told, subjects[-1])


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _reverse(draw: Draw, given: Table) -> Turn | None:
    """Ask for the subject of a value that only one subject has."""
    subject = draw.pick(list(given.rows))
    usable = [a for a in given.attributes if a.reverse and a.name in given.rows[subject]]
    if not usable:
        return None
    attribute = draw.pick(usable)
    value = given.rows[subject][attribute.name]
    if sum(value in row.values() for row in given.rows.values()) > 1:
        return None
    return Turn(draw.say(draw.pick(attribute.reverse), v=value), draw.say(attribute.fact + ".", s=subject, v=value))


def question(draw: Draw, given: Table) -> Turn:
    """One question over a table; about one in four has no answer in it."""
    if draw.chance(0.15) and (turn := _reverse(draw, given)):
        return turn
    subject = draw.pick(list(given.rows))
    told = [a for a in given.attributes if a.name in given.rows[subject]]
    missing = [a for a in given.attributes if a.name not in given.rows[subject]]
    if draw.chance(0.14):
        asked = draw.say(draw.pick(draw.pick(told).questions), s=given.absent)
        return Turn(_capital(asked), f"{_capital(given.absent)} is not in the context.")
    if missing and draw.chance(0.14):
        attribute = draw.pick(missing)
        asked = draw.say(draw.pick(attribute.questions), s=subject)
        return Turn(_capital(asked), f"The {attribute.name} of {subject} is not in the context.")
    attribute = draw.pick(told)
    answer = draw.say(attribute.fact, s=subject, v=given.rows[subject][attribute.name]) + "."
    return Turn(_capital(draw.say(draw.pick(attribute.questions), s=subject)), _capital(answer))


_OPENINGS = (
    "[Context|Text|Notes|Facts]: $text\n[Question: |]$question",
    "$text\n$question",
    "[Answer from the context only.|Use the text to answer.|Read this.]\n$text\n$question",
    "$question\n[Context|Text]: $text",
)


def _asked(draw: Draw, given: Table, text: str, count: int) -> Scene:
    turns = [question(draw, given) for _ in range(count)]
    key = f"{given.rows}"
    if draw.chance(0.25):
        system = draw.say("[Answer with this context:|Context:|Use only this context to answer:]\n") + text
        return Scene(tuple(turns), key, system)
    opening = draw.say(draw.pick(_OPENINGS), text=text, question=turns[0].question)
    return Scene((Turn(opening, turns[0].answer), *turns[1:]), key)


def short_text(draw: Draw) -> Scene:
    """One to five subjects, several questions in a row; the number of subjects grows with the level."""
    rows = draw.number(1, 2 + round(3 * draw.level))
    given = table(draw, rows, draw.number(1, 3 if rows < 4 else 2))
    sentences = given.sentences(draw)
    if draw.chance(0.3):
        sentences.insert(draw.number(0, len(sentences)), draw.pick(_FILLER))
    return _asked(draw, given, draw.pick((" ", " ", "\n", "\n- ")).join(sentences), draw.number(1, 5))


def long_text(draw: Draw) -> Scene:
    """Six to twelve subjects: a few hundred tokens to search."""
    given = table(draw, draw.number(6, 8 + round(4 * draw.level)), draw.number(1, 2))
    return _asked(draw, given, draw.pick((" ", "\n")).join(given.sentences(draw)), draw.number(4, 10))


KINDS = (
    Kind("context", "short_text", 2.8, short_text),
    Kind("context", "long_text", 0.12, long_text),
)
