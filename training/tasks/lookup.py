"""Looking up well-known facts and converting units with the step written out."""

from training.tasks import words
from training.tasks.draw import Draw
from training.tasks.scene import Kind, Scene, ask

_CAPITALS = dict(
    pair.split(":")
    for pair in (
        "France:Paris Germany:Berlin Italy:Rome Spain:Madrid Portugal:Lisbon Austria:Vienna Greece:Athens Norway:Oslo "
        "Sweden:Stockholm Finland:Helsinki Denmark:Copenhagen Ireland:Dublin England:London Scotland:Edinburgh "
        "Poland:Warsaw Hungary:Budapest Romania:Bucharest Bulgaria:Sofia Turkey:Ankara Egypt:Cairo Kenya:Nairobi "
        "Japan:Tokyo China:Beijing India:Delhi Thailand:Bangkok Vietnam:Hanoi Canada:Ottawa Mexico:Mexico_City "
        "Brazil:Brasilia Argentina:Buenos_Aires Chile:Santiago Peru:Lima Cuba:Havana Australia:Canberra "
        "Iceland:Reykjavik Belgium:Brussels Switzerland:Bern Russia:Moscow Ukraine:Kyiv Iran:Tehran Iraq:Baghdad"
    ).split()
)
_CAPITALS = {country: city.replace("_", " ") for country, city in _CAPITALS.items()} | {
    "the Netherlands": "Amsterdam",
    "the United States": "Washington",
}
_OPPOSITES = (
    "hot:cold big:small tall:short fast:slow old:new happy:sad light:dark hard:soft open:closed full:empty "
    "rich:poor early:late up:down left:right day:night wet:dry loud:quiet strong:weak clean:dirty high:low "
    "near:far thick:thin heavy:light first:last true:false yes:no"
).split()
_COLOURS = (
    "the sky:blue grass:green snow:white coal:black the sun:yellow blood:red milk:white a lemon:yellow a banana:yellow "
    "a strawberry:red a carrot:orange chocolate:brown a leaf:green a tomato:red salt:white"
)
_SOUNDS = "dog:woof cat:meow cow:moo duck:quack sheep:baa pig:oink lion:roar frog:croak owl:hoot horse:neigh".split()
_LEGS = "dog:4 cat:4 horse:4 duck:2 spider:8 bee:6 ant:6 owl:2 snake:0 frog:4 cow:4 fish:0".split()
_DAYS_IN = dict(zip(words.MONTHS, (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31), strict=True))
_TELL = "[|||Please tell me: |Can you tell me: |Quick question: |I need to know: ]"


def _fact(draw: Draw, pattern: str, answer: str, **slots: object) -> Scene:
    question = draw.say(_TELL + pattern, **slots)
    return ask(draw.casual(question), answer, question.lower())


def capital(draw: Draw) -> Scene:
    """The capital of a country, or of a country that does not exist."""
    pattern = (
        "[What is the capital of $c|What's the capital of $c|Name the capital of $c|Which city is the "
        "capital of $c|capital of $c|What is the capital city of $c]?"
    )
    if draw.chance(0.12):
        country = draw.syllables().capitalize() + draw.pick(("", "land", "ia"))
        return _fact(draw, pattern, "I do not know that capital.", c=country)
    country = draw.pick(list(_CAPITALS))
    answer = f"The capital of {country} is {_CAPITALS[country]}."
    return _fact(draw, pattern, answer, c=country)


def opposite(draw: Draw) -> Scene:
    """The opposite of a common word."""
    pair = draw.pick(_OPPOSITES).split(":")
    word, other = pair if draw.chance(0.5) or "light" in pair else pair[::-1]
    pattern = "[What is the opposite of $w|Opposite of $w|What's the opposite of $w|Name the opposite of $w]?"
    return _fact(draw, pattern, f"The opposite of {word} is {other}.", w=word)


def nature(draw: Draw) -> Scene:
    """Colours of things, sounds and legs of animals."""
    table = draw.pick(("colour", "sound", "legs"))
    if table == "colour":
        pairs = dict(part.rsplit(":", 1) for part in _split_colours())
        thing = draw.pick(list(pairs))
        pattern = (
            "[What color is $t|What is the color of $t|Which color is $t|What colour is $t|Which color does $t have]?"
        )
        return _fact(draw, pattern, f"{thing[0].upper()}{thing[1:]} is {pairs[thing]}.", t=thing)
    animal, value = draw.pick(_SOUNDS if table == "sound" else _LEGS).split(":")
    article = "an" if animal[0] in "aeiou" else "a"
    if table == "sound":
        pattern = "[What sound does $a $t make|What does $a $t say|How does $a $t sound|Which sound does $a $t make]?"
        return _fact(draw, pattern, f"{article.capitalize()} {animal} says {value}.", a=article, t=animal)
    pattern = "[How many legs does $a $t have|What number of legs does $a $t have|How many legs has $a $t]?"
    return _fact(draw, pattern, f"{article.capitalize()} {animal} has {value} legs.", a=article, t=animal)


def _split_colours() -> list[str]:
    found: list[str] = []
    pending = ""
    for word in _COLOURS.split():
        pending = f"{pending} {word}".strip()
        if ":" in word:
            found.append(pending)
            pending = ""
    return found


def calendar(draw: Draw) -> Scene:
    """Days and months: the next, the one before, and lengths."""
    if draw.chance(0.2):
        month = draw.pick(words.MONTHS)
        pattern = "[How many days does $m have|How many days are in $m|How long is $m]?"
        return _fact(draw, pattern, f"{month} has {_DAYS_IN[month]} days.", m=month)
    names, unit = (words.DAYS, "day") if draw.chance(0.6) else (words.MONTHS, "month")
    at = draw.number(0, len(names) - 1)
    if draw.chance(0.5):
        pattern = "[What $u comes after $d|Which $u is after $d|What is the $u after $d|What $u follows $d]?"
        return _fact(draw, pattern, f"{names[(at + 1) % len(names)]} comes after {names[at]}.", u=unit, d=names[at])
    pattern = "[What $u comes before $d|Which $u is before $d|What is the $u before $d|What $u precedes $d]?"
    return _fact(draw, pattern, f"{names[at - 1]} comes before {names[at]}.", u=unit, d=names[at])


_UNITS = (
    ("km", "meters", 1000, 99), ("kg", "grams", 1000, 99), ("meters", "cm", 100, 99), ("hours", "minutes", 60, 24),
    ("minutes", "seconds", 60, 24), ("weeks", "days", 7, 20), ("days", "hours", 24, 9), ("liters", "ml", 1000, 99),
    ("years", "months", 12, 12), ("feet", "inches", 12, 12), ("cm", "mm", 10, 99), ("dollars", "cents", 100, 99),
    ("tons", "kg", 1000, 99), ("dozen", "pieces", 12, 12), ("yards", "feet", 3, 33),
)  # fmt: skip


def units(draw: Draw) -> Scene:
    """From a larger unit to a smaller one, or back when it divides."""
    large, small, factor, most = draw.pick(_UNITS)
    count = draw.number(1, most)
    single = f"1 {large.rstrip('s') if large not in ('dozen', 'feet') else {'dozen': 'dozen', 'feet': 'foot'}[large]}"
    back = draw.chance(0.35)
    value, source, target = (count * factor, small, large) if back else (count, large, small)
    pattern = (
        "[How many $t are $n $s|Convert $n $s to $t|Convert $n $s into $t|What is $n $s in $t|$n $s in $t|$n $s to $t"
        "|Turn $n $s into $t|How many $t are in $n $s|Express $n $s in $t]?"
    )
    operation = f"{value} / {factor} = {count}" if back else f"{count} x {factor} = {count * factor}"
    result = count if back else count * factor
    answer = f"{single} = {factor} {small}\n{operation}\nAnswer: {result} {target}"
    return ask(draw.say(pattern, n=value, s=source, t=target), answer, f"{value} {source} {target}")


KINDS = (
    Kind("lookup", "capital", 0.6, capital),
    Kind("lookup", "opposite", 0.35, opposite),
    Kind("lookup", "nature", 0.45, nature),
    Kind("lookup", "calendar", 0.6, calendar),
    Kind("lookup", "units", 0.9, units),
)
