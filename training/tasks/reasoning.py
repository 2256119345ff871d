"""Reasoning in several written steps: stories with numbers, bills, orderings, chains of facts."""

from itertools import pairwise

from training.tasks import words
from training.tasks.draw import Draw
from training.tasks.scene import Kind, Scene, ask

_STEPS = "[||| Show the steps.| Think step by step.| Explain your steps.]"
_GAIN = (
    "Then $n [gets|finds|buys|receives] $k more.",
    "$n [finds|buys|gets] $k more $t.",
    "A friend gives $n $k more.",
)
_LOSE = ("Then $n [gives away|loses|sells] $k.", "$n [loses|sells|gives away] $k $t.", "$n gives $k of them to $m.")


def changes(draw: Draw) -> Scene:
    """Someone has things, then gets and loses some."""
    name, friend = draw.names(2)
    thing, start = draw.pick(words.THINGS), draw.number(5, 60)
    have, story, steps = start, [draw.say("$n has $k $t.", n=name, k=start, t=thing)], []
    for _ in range(draw.number(1, 3)):
        gain, amount = draw.chance(0.5), draw.number(2, 39)
        if not gain and amount > have:
            gain = True
        story.append(draw.say(draw.pick(_GAIN if gain else _LOSE), n=name, m=friend, k=amount, t=thing))
        after = have + amount if gain else have - amount
        steps.append(f"{have} {'+' if gain else '-'} {amount} = {after}")
        have = after
    ends = "[How many $t does $n have now?|How many $t are left?|How many $t does $n have in the end?]"
    question = " ".join([*story, draw.say(ends, t=thing, n=name)]) + draw.say(_STEPS)
    return ask(question, "\n".join([*steps, f"Answer: {have} {thing}"]), f"{thing} {start} {steps}")


def groups(draw: Draw) -> Scene:
    """Equal groups, then some more or fewer."""
    name, thing = draw.name(), draw.pick(words.THINGS)
    count, each = draw.number(2, 9), draw.number(2, 12)
    total, extra = count * each, draw.number(1, min(30, count * each - 1))
    holder = draw.pick(("boxes", "bags", "baskets", "rows", "shelves"))
    gain = draw.chance(0.5)
    change = draw.say("[gets|finds|buys] $k more" if gain else "[gives away|loses|sells] $k", k=extra)
    question = draw.say(
        "$n has $c $h with $e $t each[.|and] $n $change. [How many $t does $n have now?|How many $t are there now?]"
        .replace("[.|and]", "."),
        n=name, c=count, h=holder, e=each, t=thing, change=change,
    ) + draw.say(_STEPS)  # fmt: skip
    after = total + extra if gain else total - extra
    answer = f"{count} x {each} = {total}\n{total} {'+' if gain else '-'} {extra} = {after}\nAnswer: {after} {thing}"
    return ask(question, answer, f"{holder} {thing} {count} {each} {extra} {gain}")


def bill(draw: Draw) -> Scene:
    """The price of some of one good and some of another."""
    first, second = draw.some(words.GOODS, 2)
    price_a, price_b, n_a, n_b = draw.number(2, 12), draw.number(2, 12), draw.number(2, 9), draw.number(2, 9)
    pattern = (
        "A $a costs $pa dollars and a $b costs $pb dollars. [What do|How much do|What is the price of] "
        "$na ${a}s and $nb ${b}s[ cost|]?" + _STEPS
    )
    question = draw.say(pattern, a=first, b=second, pa=price_a, pb=price_b, na=n_a, nb=n_b)
    cost_a, cost_b = n_a * price_a, n_b * price_b
    answer = (
        f"{n_a} x {price_a} = {cost_a}\n{n_b} x {price_b} = {cost_b}\n"
        f"{cost_a} + {cost_b} = {cost_a + cost_b}\nAnswer: {cost_a + cost_b} dollars"
    )
    return ask(question, answer, f"{first} {second} {price_a} {price_b} {n_a} {n_b}")


_SCALES = (("taller", "tallest", "shortest"), ("older", "oldest", "youngest"), ("faster", "fastest", "slowest"))


def ordering(draw: Draw) -> Scene:
    """Put three or four people in order from pairwise facts, then name an end."""
    people = draw.names(draw.number(3, 3 + (draw.level > 0.5)))
    more, most, least = draw.pick(_SCALES)
    facts = [f"{a} is {more} than {b}." for a, b in pairwise(people)]
    if draw.chance(0.5):
        facts = draw.shuffled(facts)
    wants_most = draw.chance(0.5)
    question = " ".join(facts) + f" Who is the {most if wants_most else least}?" + draw.say(_STEPS)
    answer = " > ".join(people) + f"\nAnswer: {people[0] if wants_most else people[-1]}"
    return ask(question, answer, f"{people} {more} {facts} {wants_most}")


def clock(draw: Draw) -> Scene:
    """A start and one or two durations in whole hours, on a 24-hour clock."""
    what = draw.pick(("train", "bus", "boat", "plane", "film", "concert"))
    start, first, second = draw.number(1, 11), draw.number(1, 6), draw.number(1, 6)
    verb = "starts" if what in ("film", "concert") else "leaves"
    if draw.chance(0.5):
        question = f"A {what} {verb} at {start} and takes {first} hours. When does it end?"
        steps, end = [f"{start} + {first} = {start + first}"], start + first
    else:
        question = f"A {what} {verb} at {start}, takes {first} hours, and is {second} hours late. When does it end?"
        end = start + first + second
        steps = [f"{start} + {first} = {start + first}", f"{start + first} + {second} = {end}"]
    return ask(question + draw.say(_STEPS), "\n".join([*steps, f"Answer: {end}:00"]), f"{what} {steps}")


def syllogism(draw: Draw) -> Scene:
    """Follow a chain of invented kinds to yes, or find no chain."""
    kinds = [draw.syllables() + "s" for _ in range(draw.number(3, 4))]
    if len(set(kinds)) < len(kinds):
        return syllogism(draw)
    follows = draw.chance(0.5)
    start, end = (kinds[0], kinds[-1]) if follows else (kinds[-1], kinds[0])
    links = [f"all {a} are {b}" for a, b in pairwise(kinds)]
    question = " ".join(link.capitalize() + "." for link in links) + draw.say(" Are all $a $b?", a=start, b=end)
    chain = " -> ".join(kinds)
    reached = f"{start} -> {end}" if follows else f"not {start} -> {end}"
    return ask(
        question + draw.say(_STEPS), f"{chain}\n{reached}\nAnswer: {'yes' if follows else 'no'}", chain + str(follows)
    )


KINDS = (
    Kind("reasoning", "changes", 1.2, changes),
    Kind("reasoning", "groups", 0.6, groups),
    Kind("reasoning", "bill", 0.5, bill),
    Kind("reasoning", "ordering", 0.8, ordering),
    Kind("reasoning", "clock", 0.2, clock),
    Kind("reasoning", "syllogism", 0.8, syllogism),
)
