"""Arithmetic: chains of small sums modulo 10, which must be worked out one step after the other."""

import random

from .common import Example, noisy, user

# Multiplying by 3, 7 or 9 permutes the ten digits, so the answers stay spread evenly; 2, 4, 5, 6 and 8
# collapse them and are rare.
MULTIPLIERS = (3, 7, 9) * 12 + (2, 4, 5, 6, 8)
OPERATORS = ("+", "-", "*")

ADD = {"plain": "add {d}", "short": "plus {d}", "sign": "+ {d}", "clock": "go forward {d}"}
SUBTRACT = {"plain": "subtract {d}", "short": "minus {d}", "sign": "- {d}", "clock": "go back {d}"}
MULTIPLY = {"plain": "multiply by {d}", "short": "times {d}", "sign": "* {d}", "clock": "multiply by {d}"}

# (style of the steps, joiner between them, phrasing); {s} is the first digit, {steps} the rest, {e} both.
PHRASINGS = (
    ("plain", ", ", "Work modulo 10: start with {s}, {steps}."),
    ("plain", ", ", "Start with {s}, {steps}. What is the result modulo 10?"),
    ("plain", ", then ", "Modulo 10, take {s}, then {steps}. What do you get?"),
    ("plain", ", ", "Take {s}, {steps}. Everything is modulo 10. What is the result?"),
    ("plain", " and ", "If I start with {s} and {steps}, what do I get modulo 10?"),
    ("plain", ". Then ", "Count modulo 10. Start with {s}. Then {steps}."),
    ("plain", ", ", "Compute modulo 10: {s}, {steps}."),
    ("short", " ", "From left to right and modulo 10, what is {s} {steps}?"),
    ("short", ", ", "Start with {s}, {steps}, all modulo 10. What is the result?"),
    ("short", ", ", "What is {s}, {steps}, step by step modulo 10?"),
    ("short", " then ", "{s} then {steps}, modulo 10. What is it?"),
    ("sign", ", ", "Start at {s} and work modulo 10: {steps}."),
    ("sign", ", ", "Chain modulo 10: {s}, {steps}."),
    ("sign", "\n", "Do these steps modulo 10:\n{s}\n{steps}"),
    ("clock", ", ", "On a ten-hour clock, start at {s}, {steps}. Where are you?"),
    ("clock", ", then ", "A clock has ten hours, from 0 to 9. It shows {s}. Now {steps}. What does it show?"),
    ("expr", "", "{e} modulo 10?"),
    ("expr", "", "What is {e} modulo 10?"),
    ("expr", "", "Compute {e} modulo 10."),
    ("expr", "", "Modulo 10, what is {e}?"),
    ("expr", "", "Calculate modulo 10: {e}"),
    ("expr", "", "Give the result of {e} modulo 10."),
    ("expr", "", "Work out {e} and give the result modulo 10."),
    ("expr", "", "({e}) % 10"),
)


def chain(rng: random.Random, length: int) -> tuple[int, list[tuple[str, int]]]:
    """A first digit and `length` steps of (operator, digit)."""
    steps = []
    for _ in range(length):
        operator = rng.choice(OPERATORS)
        steps.append((operator, rng.choice(MULTIPLIERS) if operator == "*" else rng.randint(1, 9)))
    return rng.randint(0, 9), steps


def apply(operator: str, left: int, right: int) -> int:
    """One step modulo 10."""
    value = left + right if operator == "+" else left - right if operator == "-" else left * right
    return value % 10


def expression(start: int, steps: list[tuple[str, int]], every: bool) -> str:
    """The chain with parentheses, around every step or only where the precedence of * needs them."""
    text, previous = str(start), "*"
    for operator, digit in steps:
        if (every and text != str(start)) or (operator == "*" and previous != "*"):
            text = f"({text})"
        text, previous = f"{text} {operator} {digit}", operator
    return text


def sample(rng: random.Random, difficulty: float) -> Example:
    """A chain of three to six steps; below difficulty 1 also of one or two."""
    length = rng.randint(3, 6)
    if rng.random() > difficulty:
        length = rng.randint(1, 2 if difficulty < 0.3 else 3)
    start, steps = chain(rng, length)

    style, joiner, template = rng.choice(PHRASINGS)
    fields: dict[str, object] = {"s": start}
    if style == "expr":
        fields["e"] = expression(start, steps, rng.random() < 0.5)
    else:
        words = {"+": ADD[style], "-": SUBTRACT[style], "*": MULTIPLY[style]}
        fields["steps"] = joiner.join(words[operator].format(d=digit) for operator, digit in steps)
    question = noisy(rng, template, fields, protect=True)

    value, lines = start, []
    for operator, digit in steps:
        result = apply(operator, value, digit)
        lines.append(f"{value} {operator} {digit} = {result}")
        value = result
    return Example("arithmetic", "chain", [user(question)], "\n".join(lines), f"The result is {value}.")


SUM_PHRASINGS = ("What is {e}?", "How much is {e}?", "Tell me what {e} is.", "Work out {e}.", "Calculate {e}.", "{e}?",
                 "What does {e} make?", "Do you know what {e} is?")


def plain(rng: random.Random, difficulty: float) -> Example:
    """One sum in words that needs no modulo."""
    operator, left, right = rng.choice(OPERATORS), rng.randint(0, 9), rng.randint(0, 9)
    if operator == "-":
        left, right = max(left, right), min(left, right)
    words = {"+": "plus", "-": "minus", "*": "times"}[operator]
    result = {"+": left + right, "-": left - right, "*": left * right}[operator]
    question = noisy(rng, rng.choice(SUM_PHRASINGS), {"e": f"{left} {words} {right}"})
    thinking = f"{left} {operator} {right} = {result}"
    return Example("sums", "plain", [user(question)], thinking, f"The result is {result}.")
