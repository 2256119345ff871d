"""Arithmetic: small sums at once, larger ones with written columns, products with written parts."""

from training.tasks.draw import Draw
from training.tasks.scene import Kind, Scene, ask

_ASK = (
    "[What is|What's|Compute|Calculate|How much is|Work out|Please compute|Can you compute|Solve|Tell me|] "
    "$sum[?||.| =]"
)
_COLUMNS = ("ones", "tens", "hundreds", "thousands")


def _plus(draw: Draw, a: int, b: int) -> str:
    pattern = "$a + $b" if draw.chance(0.6) else "[$a plus $b|$a+$b|$a+$b|the sum of $a and $b|$a added to $b]"
    return draw.say(pattern, a=a, b=b)


def _minus(draw: Draw, a: int, b: int) -> str:
    return draw.say("$a - $b" if draw.chance(0.6) else "[$a minus $b|$a-$b|$a-$b|$a take away $b]", a=a, b=b)


def _question(draw: Draw, total: str) -> str:
    return draw.say(_ASK, sum=total).strip()


def small_sum(draw: Draw) -> Scene:
    """One or two digits, answered at once."""
    high = 20 if draw.chance(0.2) else 99
    a, b = draw.number(0, high), draw.number(0, high)
    if draw.chance(0.5):
        return ask(_question(draw, _plus(draw, a, b)), f"{a} + {b} = {a + b}", f"{a}+{b}")
    if a < b and draw.chance(0.85):
        a, b = b, a
    return ask(_question(draw, _minus(draw, a, b)), f"{a} - {b} = {a - b}", f"{a}-{b}")


def _digits(number: int, count: int) -> list[int]:
    return [number // 10**place % 10 for place in range(count)]


def add_columns(a: int, b: int) -> str:
    """Written addition, ones first, with the carries."""
    lines, carry, count = [], 0, max(len(str(a)), len(str(b)))
    for column, x, y in zip(_COLUMNS, _digits(a, count), _digits(b, count), strict=False):
        total = x + y + carry
        carried = f" + {carry}" if carry else ""
        carry = total // 10
        lines.append(f"{column}: {x} + {y}{carried} = {total}" + (f", carry {carry}" if carry else ""))
    return "\n".join([*lines, f"Answer: {a + b}"])


def subtract_columns(a: int, b: int) -> str:
    """Written subtraction of b <= a, ones first, with the borrows."""
    lines, borrow, count = [], 0, len(str(a))
    for column, x, y in zip(_COLUMNS, _digits(a, count), _digits(b, count), strict=False):
        borrowed = f" - {borrow}" if borrow else ""
        left = x - y - borrow
        borrow = int(left < 0)
        lines.append(f"{column}: {x + 10 * borrow} - {y}{borrowed} = {left % 10}" + (", borrow 1" if borrow else ""))
    return "\n".join([*lines, f"Answer: {a - b}"])


def large_sum(draw: Draw) -> Scene:
    """Three or four digits, answered with written columns."""
    low, high = (1000, 4999) if draw.chance(0.15) else (100, 999)
    a, b = draw.number(low, high), draw.number(low if draw.chance(0.8) else 10, high)
    if draw.chance(0.5):
        return ask(_question(draw, _plus(draw, a, b)), add_columns(a, b), f"{a}+{b}")
    a, b = max(a, b), min(a, b)
    return ask(_question(draw, _minus(draw, a, b)), subtract_columns(a, b), f"{a}-{b}")


def product(draw: Draw) -> Scene:
    """One digit times one or two, the latter split into tens and ones."""
    a, b = draw.number(2, 99), draw.number(2, 9)
    if draw.chance(0.25):
        a = draw.number(0, 10)
    tens, ones = a // 10 * 10, a % 10
    if a > 10 and ones:
        answer = (
            f"{tens} x {b} = {tens * b}\n{ones} x {b} = {ones * b}\n{tens * b} + {ones * b} = {a * b}\nAnswer: {a * b}"
        )
    else:
        answer = f"{a} x {b} = {a * b}"
    pattern = "[$a x $b|$a * $b|$a times $b|$a×$b|$a*$b|the product of $a and $b|$a multiplied by $b]"
    return ask(_question(draw, draw.say(pattern, a=a, b=b)), answer, f"{a}x{b}")


def quotient(draw: Draw) -> Scene:
    """Exact division out of the times table, which has to be known: wordings are held out, not facts."""
    b, result = draw.number(2, 10), draw.number(1, 12)
    total = draw.say("[$a / $b|$a divided by $b|$a ÷ $b|$a/$b|$a : $b]", a=b * result, b=b)
    question = _question(draw, total)
    return ask(question, f"{b * result} / {b} = {result}", question)


def larger(draw: Draw) -> Scene:
    """Which of two numbers is larger or smaller."""
    a, b = draw.some(range(1, 1000 if draw.chance(0.5) else 100), 2)
    if draw.chance(0.5):
        question = draw.say("[Which is|Which number is|What is] [larger|bigger|greater][,|:] $a or $b?", a=a, b=b)
        return ask(question, f"{max(a, b)} is larger than {min(a, b)}.", f"{a}>{b}")
    question = draw.say("[Which is|Which number is|What is] [smaller|less][,|:] $a or $b?", a=a, b=b)
    return ask(question, f"{min(a, b)} is smaller than {max(a, b)}.", f"{a}<{b}")


KINDS = (
    Kind("arithmetic", "small_sum", 1.5, small_sum),
    Kind("arithmetic", "large_sum", 1.1, large_sum),
    Kind("arithmetic", "product", 0.6, product),
    Kind("arithmetic", "quotient", 0.5, quotient),
    Kind("arithmetic", "larger", 0.45, larger),
)
