"""Exact formatting: JSON to a schema, lists, and small rewrites of given words."""

import json

from training.tasks import words
from training.tasks.draw import Draw
from training.tasks.scene import Kind, Scene, ask

_PERSON = {
    "name": ("$v",),
    "age": ("is $v years old", "is aged $v"),
    "city": ("lives in $v", "comes from $v"),
    "job": ("works as a $v", "is a $v"),
    "pet": ("has a $v", "owns a $v"),
    "color": ("likes the color $v", "prefers $v"),
}
_TYPES = {"age": "integer", "price": "integer", "quantity": "integer"}


def _person(draw: Draw) -> dict[str, object]:
    full: dict[str, object] = {
        "age": draw.number(18, 90),
        "city": draw.pick(words.CITIES) if draw.chance(0.6) else draw.syllables().capitalize(),
        "job": draw.pick(words.JOBS),
        "pet": draw.pick(words.ANIMALS),
        "color": draw.pick(words.COLOURS),
    }
    kept = draw.some(list(full), draw.number(1, 3))
    return {"name": draw.name()} | {key: full[key] for key in kept}


def _sentence(draw: Draw, record: dict[str, object]) -> str:
    parts = [draw.say(draw.pick(_PERSON[key]), v=value) for key, value in record.items() if key != "name"]
    if draw.chance(0.2):
        listed = ", ".join(f"{key} {value}" for key, value in record.items() if key != "name")
        return f"{record['name']}, {listed}"
    joined = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    return f"{record['name']} {joined}."


def _keys(draw: Draw, keys: list[str]) -> str:
    if draw.chance(0.3):
        return "{" + ", ".join(f'"{key}": {_TYPES.get(key, "string")}' for key in keys) + "}"
    if draw.chance(0.4) and len(keys) > 1:
        return ", ".join(keys[:-1]) + " and " + keys[-1]
    return ", ".join(keys)


def json_person(draw: Draw) -> Scene:
    """Extract the asked fields of a sentence as JSON; a field that is not told is null."""
    record = _person(draw)
    keys = list(record)
    if draw.chance(0.3):
        keys = draw.shuffled(keys)[: draw.number(1, len(keys))]
    if draw.chance(0.15):
        keys = [*keys, draw.pick([key for key in _PERSON if key not in record])]
    pattern = draw.pick(
        (
            "[Return|Write|Give me|Answer with|Output] JSON with [the keys |the fields |] $keys[ for|:] $text",
            "[Extract|Get] $keys as JSON[:| from:] $text",
            "$text [Return|Write] [this|it] as JSON with $keys.",
            "[Fill this schema|Use this schema|JSON schema]: $keys\n[Text: |]$text",
        )
    )
    answer = json.dumps({key: record.get(key) for key in keys})
    question = draw.say(pattern, keys=_keys(draw, keys), text=_sentence(draw, record))
    return ask(question, answer, f"{record} {keys}")


def json_order(draw: Draw) -> Scene:
    """An order as JSON with a string and two numbers."""
    item, quantity, price = draw.pick(words.GOODS), draw.number(1, 20), draw.number(1, 99)
    record = {"item": item, "quantity": quantity, "price": price}
    told = draw.say("[Order: |I order |We need ]$q ${i}s at $p dollars each.", q=quantity, i=item, p=price)
    pattern = "[Return|Write|Give me|Extract] [the order as |]JSON with $keys[ for|:] $text"
    return ask(draw.say(pattern, keys=_keys(draw, list(record)), text=told), json.dumps(record), str(record))


def _some_words(draw: Draw, low: int, high: int) -> list[str]:
    pool = draw.pick((words.FRUITS, words.ANIMALS, words.COLOURS, words.LISTABLE, words.LISTABLE, words.NAMES))
    return draw.some(pool, draw.number(low, high))


def _comma(draw: Draw, items: list[str]) -> str:
    if draw.chance(0.2):
        return ", ".join(items[:-1]) + " and " + items[-1]
    return ", ".join(items) if draw.chance(0.85) else " ".join(items)


_LISTS = {
    "json": "[Write|Return|Give me|Make] [these words as |] a JSON [array|list][ of|:] $items",
    "bullets": "[Write|Return|Make|Give me] a [bullet list|bulleted list|list with bullets][ of|:] $items",
    "numbers": "[Write|Return|Make|Give me] a [numbered list|list with numbers][ of|:] $items",
    "reverse": "[Reverse|Turn around] [this list|the list|the order of|these words]: $items",
    "count": "[How many words are in this list|Count the words|How many items are there]: $items",
    "upper": "[Write in capitals|Write in upper case|Uppercase|Make upper case]: $items",
    "lines": "[Write each word on its own line|One word per line|Put each on a line]: $items",
    "first": "[What is|Which is|Give me] the first [word|item] [of|in]: $items",
    "last": "[What is|Which is|Give me] the last [word|item] [of|in]: $items",
    "sort": "[Sort|Sort alphabetically|Put in alphabetical order|Order from A to Z]: $items",
}


def _listed(form: str, items: list[str]) -> str:
    plain = {
        "json": json.dumps(items),
        "bullets": "\n".join(f"- {item}" for item in items),
        "numbers": "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1)),
        "reverse": ", ".join(reversed(items)),
        "count": str(len(items)),
        "upper": ", ".join(items).upper(),
        "lines": "\n".join(items),
        "first": items[0],
        "last": items[-1],
        "sort": ", ".join(sorted(items)),
    }
    return plain[form]


def listing(draw: Draw) -> Scene:
    """Rewrite a few given words as a list of the asked form."""
    form = draw.pick(list(_LISTS))
    items = _some_words(draw, 2, 6)
    if form == "upper":
        items = draw.some((*words.FRUITS, *words.COLOURS), draw.number(1, 3))
    if form == "sort":
        items = _some_words(draw, 2, 3)
    items = items if len(items) > 1 else [items[0]]
    text = items[0] if len(items) == 1 else _comma(draw, items)
    return ask(draw.say(_LISTS[form], items=text), _listed(form, items), f"{form} {items}")


def repeat(draw: Draw) -> Scene:
    """Say given words again."""
    text = " ".join(draw.name() if draw.chance(0.3) else draw.pick(words.LISTABLE) for _ in range(draw.number(1, 5)))
    pattern = "[Repeat|Say|Repeat after me|Say exactly|Echo|Reply with exactly|Answer only with][:|: ] $text"
    return ask(draw.say(pattern, text=text).replace("  ", " "), text, text)


_NAMEABLE = {
    "fruits": words.FRUITS, "animals": words.ANIMALS, "colors": words.COLOURS, "days": words.DAYS,
    "months": words.MONTHS, "cities": words.CITIES, "jobs": words.JOBS, "names": words.NAMES,
    "things": words.THINGS,
}  # fmt: skip


def naming(draw: Draw) -> Scene:
    """Some examples of a class of things, always the same ones, as the asked kind of list."""
    kind = draw.pick(list(_NAMEABLE))
    count = draw.number(2, 7)
    amount = words.NUMBER_WORDS[count] if draw.chance(0.5) else count
    form = draw.pick(("comma", "comma", "bullets", "numbers", "json"))
    wish = {
        "comma": "[Name|List|Give me|Tell me|Write] $k $t[|.]",
        "bullets": "[Name|List|Give me] $k $t [as a bullet list|with bullets|as bullet points].",
        "numbers": "[Name|List|Give me] $k $t [as a numbered list|with numbers].",
        "json": "[Name|List|Give me] $k $t as [JSON|a JSON list|a JSON array].",
    }[form]
    items = list(_NAMEABLE[kind][:count])
    answer = ", ".join(items) if form == "comma" else _listed(form, items)
    question = draw.casual(draw.say(wish, k=amount, t=kind))
    return ask(question, answer, question)


def json_sample(draw: Draw) -> Scene:
    """JSON with asked keys and no data: sample values, always the same ones."""
    sample = {"name": "Ada", "age": 36, "city": "London", "job": "engineer", "pet": "cat", "color": "blue"}
    keys = draw.some(list(sample), draw.number(1, 4))
    pattern = (
        "[Write|Give me|Make|Return|Create] [some JSON|JSON|a JSON object|an example JSON|a JSON document]"
        " with [the keys |the fields ||]$keys."
    )
    answer = json.dumps({key: sample[key] for key in keys})
    if draw.chance(0.15):
        question = draw.say(
            "[Write|Give me|Make|Return] [some JSON|JSON|a JSON object][.| for a person.| for a user.|]"
        )
        return ask(question, json.dumps({"name": "Ada", "age": 36}), "")
    return ask(draw.say(pattern, keys=_keys(draw, keys)), answer, f"{keys}")


KINDS = (
    Kind("format", "naming", 0.7, naming),
    Kind("format", "json_sample", 0.2, json_sample),
    Kind("format", "json_person", 1.3, json_person),
    Kind("format", "json_order", 0.25, json_order),
    Kind("format", "listing", 2.4, listing),
    Kind("format", "repeat", 0.3, repeat),
)
