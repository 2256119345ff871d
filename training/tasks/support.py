"""Support questions: many wordings of a few topics, answered with the facts in the system turn.

Without facts the assistant answers for its own imaginary shop (``HOUSE``). One wording in five is never trained on.
"""

from training.tasks import words
from training.tasks.draw import Draw
from training.tasks.filler import paragraph
from training.tasks.scene import Kind, Scene, Turn
from training.tasks.topics import TOPICS, Topic

HOUSE = {
    "delivery": "Delivery takes 3 days.",
    "shipping": "Shipping costs 5 dollars.",
    "abroad": "We ship to 12 countries.",
    "returns": "You can return an item within 30 days.",
    "refund": "A refund takes 7 days.",
    "tracking": "You can track your order on the orders page.",
    "payment": "You can pay by card or bank transfer.",
    "warranty": "Every product has a warranty of 2 years.",
    "password": "You can reset your password on the login page.",
    "hours": "Support is open from 9:00 to 17:00.",
    "contact": "You can reach us by mail at help@amuse.example.",
    "cancel": "You can cancel an order within 24 hours.",
    "address": "Our shop is at 12 Main Street.",
    "discount": "Students get a discount of 10 percent.",
    "gift": "Gift cards are valid for 3 years.",
    "invoice": "You find your invoice in your account.",
    "broken": "Send us a photo of the broken item and we replace it.",
    "delete": "You can delete your account in the settings.",
}
MISSING = "That is not in the context."


def _value(draw: Draw, slot: str) -> str:
    match slot:
        case "days":
            return draw.say("$n [days|days|weeks]", n=draw.number(2, 30))
        case "money":
            return draw.say("$n [dollars|euros]", n=draw.number(2, 40))
        case "years":
            return f"{draw.number(2, 9)} years"
        case "count":
            return str(draw.number(3, 60))
        case "hours":
            return f"{draw.number(6, 11)}:00 to {draw.number(15, 22)}:00"
        case "day":
            return draw.pick(words.DAYS)
        case "page":
            page = draw.pick(("login", "orders", "account", "help", "contact", "status", "profile", "start"))
            return f"the {page} page"
        case "mail":
            return f"{draw.pick(('help', 'info', 'support', 'hello'))}@{draw.syllables()}.example"
        case "street":
            return f"{draw.number(1, 99)} {draw.syllables().capitalize()} Street"
        case "percent":
            return f"{draw.number(1, 12) * 5} percent"
        case "card":
            return draw.pick(("card", "cash", "bank transfer", "invoice", "voucher", "phone"))
        case _:
            return draw.name()


def fact(draw: Draw, topic: Topic) -> str:
    """One random fact about a topic, as its sentence."""
    pattern = draw.pick(topic.facts)
    slots = {slot: _value(draw, slot) for slot in topic.slots(pattern)}
    sentence = draw.say(pattern, **slots)
    return sentence[0].upper() + sentence[1:]


def ask_topic(draw: Draw, topic: Topic) -> str:
    """A question about a topic, in a wording of this split."""
    return draw.casual(
        draw.say("[||||||||Hi, |Hello, |Hey, |Sorry, |One question: ]") + draw.say(draw.pattern(topic.wordings))
    )


_ROLES = (
    "You are the support [agent|assistant|bot] of $shop.",
    "You answer [questions of customers|customers|support questions] for $shop.",
    "You are a helpful assistant for $shop.",
    "You work for $shop.",
    "",
)
_HEADS = ("Facts:", "Use these facts:", "Answer with these facts only:", "Context:", "What you know:", "Information:")


def _briefing(draw: Draw, facts: list[str]) -> str:
    role = draw.say(draw.pick(_ROLES), shop=draw.syllables().capitalize())
    body = "\n".join(f"- {sentence}" for sentence in facts) if draw.chance(0.7) else " ".join(facts)
    return "\n".join(part for part in (role, draw.pick(_HEADS), body) if part)


def _turns(draw: Draw, told: dict[str, str], count: int) -> tuple[Turn, ...]:
    turns = []
    for _ in range(count):
        name = draw.pick(list(TOPICS)) if draw.chance(0.18) else draw.pick(list(told))
        turns.append(Turn(ask_topic(draw, TOPICS[name]), told.get(name, MISSING)))
    return tuple(turns)


def given(draw: Draw) -> Scene:
    """Facts in the system turn or before the first question; several questions, some about what is not told."""
    told = {
        name: fact(draw, TOPICS[name]) for name in draw.some(list(TOPICS), draw.number(2, 3 + round(4 * draw.level)))
    }
    turns, briefing = _turns(draw, told, draw.number(1, 5)), _briefing(draw, list(told.values()))
    if draw.chance(0.8):
        return Scene(turns, "", briefing)
    return Scene((Turn(f"{briefing}\n{turns[0].question}", turns[0].answer), *turns[1:]), "", alone=True)


def buried(draw: Draw) -> Scene:
    """Facts in a long system turn, with unrelated paragraphs around them."""
    told = {name: fact(draw, TOPICS[name]) for name in draw.some(list(TOPICS), draw.number(4, 10))}
    parts = [*told.values()]
    for _ in range(draw.number(2, 9 if draw.chance(0.8) else 16)):
        parts.insert(draw.number(0, len(parts)), paragraph(draw, draw.number(2, 6)))
    role = draw.say(draw.pick(_ROLES[:4]), shop=draw.syllables().capitalize())
    return Scene(_turns(draw, told, draw.number(4, 10)), "", role + "\n" + "\n".join(parts))


def house(draw: Draw) -> Scene:
    """No facts given: the answers of the imaginary shop."""
    name = draw.pick(list(HOUSE))
    return Scene((Turn(ask_topic(draw, TOPICS[name]), HOUSE[name]),), "", alone=True)


KINDS = (
    Kind("support", "given", 1.6, given),
    Kind("support", "house", 0.8, house),
    Kind("long", "buried", 0.08, buried),
)
