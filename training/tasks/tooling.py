"""Calling one of the offered functions, in the Hermes form, and telling its result."""

import json

from training.tasks import words
from training.tasks.draw import Draw
from training.tasks.scene import Kind, Scene, Tool, Turn

_FUNCTIONS: dict[str, tuple[str, dict[str, str], str]] = {
    # name: description, arguments with their types, wordings of a request
    "get_weather": (
        "Get the weather of a city.",
        {"city": "string"},
        "[What is the weather in $city|How is the weather in $city|Will it rain in $city|weather in $city]?",
    ),
    "get_time": (
        "Get the time in a city.",
        {"city": "string"},
        "[What time is it in $city|Tell me the time in $city|What is the time in $city]?",
    ),
    "set_timer": (
        "Set a timer.",
        {"minutes": "integer"},
        "[Set a timer for $minutes minutes|Start a timer of $minutes minutes|Wake me in $minutes minutes].",
    ),
    "send_message": (
        "Send a message to a person.",
        {"to": "string", "text": "string"},
        "[Tell|Message|Write to] $to: $text",
    ),
    "get_order": (
        "Look up an order.",
        {"order_id": "string"},
        "[Where is order $order_id|Look up order $order_id|What is the status of order $order_id]?",
    ),
    "play_song": (
        "Play a song.",
        {"title": "string"},
        "[Play the song $title|Play $title|Put on $title].",
    ),
    "find_flights": (
        "Find flights between two cities.",
        {"origin": "string", "destination": "string"},
        "[Find|Show me] flights from $origin to $destination.",
    ),
    "book_table": (
        "Book a table at a restaurant.",
        {"people": "integer", "day": "string"},
        "[Book|Reserve] a table for $people on $day.",
    ),
    "get_price": (
        "Get the price of a product.",
        {"product": "string"},
        "[What does a $product cost|How much is a $product|What is the price of a $product]?",
    ),
    "turn_on": (
        "Turn on a device.",
        {"device": "string"},
        "[Turn on the $device|Switch on the $device|Switch the $device on].",
    ),
}


def _argument(draw: Draw, name: str) -> object:
    match name:
        case "minutes":
            return draw.number(1, 60)
        case "people":
            return draw.number(2, 12)
        case "to":
            return draw.name()
        case "text":
            return draw.pick(("I am late", "see you soon", "dinner is ready", "call me back", "well done"))
        case "order_id":
            return f"{draw.pick('ABCDEFGHK')}{draw.number(10, 99)}"
        case "title":
            return " ".join(draw.syllables().capitalize() for _ in range(draw.number(1, 2)))
        case "day":
            return draw.pick(words.DAYS)
        case "product":
            return draw.pick(words.GOODS)
        case "device":
            return draw.pick(("lamp", "radio", "heater", "fan", "oven", "light", "camera"))
        case _:
            return draw.pick(words.CITIES)


def tool(name: str) -> Tool:
    """The chat-completions description of one function."""
    description, arguments, _ = _FUNCTIONS[name]
    schema = {
        "type": "object",
        "properties": {argument: {"type": kind} for argument, kind in arguments.items()},
        "required": list(arguments),
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


def call_text(name: str, arguments: dict[str, object]) -> str:
    """A call as the model writes it."""
    return "<tool_call>\n" + json.dumps({"name": name, "arguments": arguments}) + "\n</tool_call>"


def _result(draw: Draw) -> str:
    return draw.pick((
        f"{draw.number(-5, 35)} degrees", f"{draw.number(0, 23)}:{draw.number(10, 59)}", "done", "not found", "sunny",
        "rain", f"{draw.number(2, 99)} dollars", f"arrives on {draw.pick(words.DAYS)}", "sent", "error: try later",
    ))  # fmt: skip


def call(draw: Draw) -> Scene:
    """Pick the right one of up to three functions and fill its arguments; perhaps tell the result."""
    offered = draw.some(list(_FUNCTIONS), draw.number(1, 3))
    turns, keys = [], []
    for _ in range(draw.number(1, 2)):
        name = draw.pick(offered)
        _, schema, pattern = _FUNCTIONS[name]
        arguments = {argument: _argument(draw, argument) for argument in schema}
        turns.append(Turn(draw.say(pattern, **arguments), call_text(name, arguments)))
        keys.append(f"{name}{arguments}")
        result = _result(draw)
        turns.append(Turn(result, f"Result: {result}", role="tool"))
    if draw.chance(0.4):
        turns = turns[:1]
    return Scene(tuple(turns), str(keys), tools=tuple(tool(name) for name in offered))


KINDS = (Kind("tools", "call", 0.4, call),)
