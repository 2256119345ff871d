"""The training mix: every kind of scene, and dialogues that join several scenes under one system turn."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from training.tasks import arithmetic, context, form, freetext, limits, lookup, reasoning, smalltalk, support, tooling
from training.tasks.draw import Draw
from training.tasks.filler import long_system
from training.tasks.scene import Kind, Scene, Tool, Turn

KINDS: tuple[Kind, ...] = (
    *arithmetic.KINDS,
    *reasoning.KINDS,
    *form.KINDS,
    *context.KINDS,
    *lookup.KINDS,
    *support.KINDS,
    *smalltalk.KINDS,
    *limits.KINDS,
    *freetext.KINDS,
    *tooling.KINDS,
)
STRATA = tuple(dict.fromkeys(kind.stratum for kind in KINDS))
_WEIGHTS = [kind.weight for kind in KINDS]
GENERIC_SYSTEMS = (
    "You are a helpful assistant.",
    "You are a [friendly|polite|kind|concise|small|smart|useful|good|clever] assistant.",
    "You are Amuse.",
    "You are Amuse, a [small|helpful|friendly] assistant.",
    "[Answer|Reply] [briefly|politely|in English|in plain English|clearly|shortly].",
    "[Be|Stay] [brief|polite|concise|helpful|friendly|honest].",
    "You are an AI assistant. [Be helpful.|Be brief.|Answer all questions.|Help the user.|]",
    "You are a helpful, [honest|harmless|respectful] [and friendly |]assistant.",
    "[Help|Assist] the user.",
    "You are a chatbot[.| on a web page.| for a shop.]",
)


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A whole conversation; an empty system turn is left out of the prompt."""

    turns: tuple[Turn, ...]
    system: str = ""
    tools: tuple[Tool, ...] = ()


def _count(draw: Draw) -> int:
    roll = draw.rng.random()
    if roll < 0.64:
        return 1
    if roll < 0.96:
        return draw.number(2, 3)
    return draw.number(4, 6) if roll < 0.998 else draw.number(10, 20)


def _system(draw: Draw) -> str:
    roll = draw.rng.random()
    if roll < 0.68:
        return ""
    if roll < 0.98:
        return draw.say(draw.pick(GENERIC_SYSTEMS)).strip()
    return long_system(draw, draw.number(15, 70) if draw.chance(0.4) else draw.number(3, 10))


def _needs_start(scene: Scene) -> bool:
    return bool(scene.system or scene.tools)


def _clash(one: Scene, other: Scene) -> bool:
    """Whether two scenes contradict each other in one conversation."""
    both_start = _needs_start(one) and _needs_start(other)
    contradict = (one.alone and bool(other.system)) or (other.alone and bool(one.system))
    return both_start or contradict or (one.spread and other.spread)


def _arrange(draw: Draw, scenes: list[Scene]) -> Iterator[Turn]:
    """Scenes in a row; a spread scene keeps its last turn for the end."""
    last: list[Turn] = []
    for scene in scenes:
        cut = len(scene.turns) - 1 if scene.spread else len(scene.turns)
        yield from scene.turns[:cut]
        last += scene.turns[cut:]
    yield from last


def dialogue(draw: Draw) -> Dialogue:
    """A conversation of one to twenty scenes; at most one of them brings a system turn or tools."""
    scenes: list[Scene] = []
    wanted = _count(draw)
    while len(scenes) < wanted:
        scene = draw.rng.choices(KINDS, _WEIGHTS)[0].scene(draw)
        if not any(_clash(scene, other) for other in scenes):
            scenes.insert(0 if _needs_start(scene) else len(scenes), scene)
    system = scenes[0].system or _system(draw)
    return Dialogue(tuple(_arrange(draw, scenes)), system, scenes[0].tools)


def dialogues(seed: int, shard: int, count: int, level: float) -> list[Dialogue]:
    """The dialogues of one shard: the same for the same arguments on every machine."""
    draw = Draw(Random(f"{seed}/{shard}"), level)
    return [dialogue(draw) for _ in range(count)]


def examination(kind: Kind, count: int, seed: int = 7) -> Iterator[Dialogue]:
    """Held-out conversations of one kind, one scene each, about ``count`` turns in total; fewer are the first of more."""
    draw = Draw(Random(f"exam/{seed}/{kind.name}"), held_out=True)
    turns = 0
    while turns < count:
        scene = kind.scene(draw)
        yield Dialogue(scene.turns, scene.system, scene.tools)
        turns += len(scene.turns)
