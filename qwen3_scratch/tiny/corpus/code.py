"""Python: what a one-line expression gives, and one-line functions from a description."""

import random

from .common import BOYS, GIRLS, THINGS, Example, noisy, user

# Few two-letter pieces: their joins ("abcd") are then few too, and each is seen often.
PIECES = ("ab", "cd", "ef", "go", "hi", "ka", "lo", "mi", "no", "pi", "to", "xy")
WORDS = THINGS + GIRLS + BOYS

VALUE_PHRASINGS = (
    "What does {e} give?", "What is {e} in Python?", "What is {e}?", "Python: {e}",
    "What does Python print for {e}?", "Evaluate {e}.", "Evaluate this in Python: {e}",
    "What is the value of {e}?", "Tell me what {e} gives.", "What does {e} return?",
    "In Python, what is {e}?", "What is the result of {e}?", "What is the output of {e}?", ">>> {e}",
    "Run this: {e}", "If I type {e} in Python, what do I get?", "print({e}) shows what?",
    "What will print({e}) show?", "Give the value of {e} in Python.", "{e}",
)

# {d} is a description that starts with a verb: {d} "double a number", {ds} "doubles a number".
FUNCTION_PHRASINGS = (
    "Write a one-line Python function that {ds}.", "Write a Python function to {d}.",
    "Write a function that {ds}.", "Give me a Python function that {ds}.", "Define a function to {d}.",
    "How do I write a Python function that {ds}?", "I need a Python function that {ds}.",
    "Python function to {d}?", "Show me a one-line function that {ds}.",
    "Can you write a function that {ds}?", "Code a Python function to {d}.",
    "Please write Python code to {d}.", "Make a function that {ds}.", "Create a one-line function to {d}.",
)
NAMED_PHRASINGS = (
    "Write a one-line Python function {f} that {ds}.", "Write a Python function named {f} to {d}.",
    "Define a function called {f} that {ds}.", "Give me a Python function {f} to {d}.",
    "Make a function with the name {f} that {ds}.", "I need a function {f} that {ds}.",
    "Can you write a function named {f} that {ds}?", "Write {f}, a function to {d}.",
)
FULL_PHRASINGS = (
    "Write a Python function {f}({p}) that {ds}.", "Define {f}({p}) to {d}.", "Give me {f}({p}), which {ds}.",
    "Write a function {f} of {p} that {ds}.", "I need {f}({p}) in Python; it {ds}.",
    "Can you write {f}({p}) so that it {ds}?", "Make a one-line function {f}({p}) to {d}.",
    "Code {f}({p}) to {d}.",
)

NAMES = ("f", "g", "calc", "helper", "compute", "solve")
# The first choice of each is the one used when the question names no parameter.
PARAMETERS = {
    "number": ("x", "n", "a", "v"),
    "pair": ("a, b", "x, y", "m, n"),
    "list": ("items", "xs", "values"),
    "text": ("text", "s", "word"),
}
# (name, kind of parameter, body, descriptions). In a body @ is the parameter (@1, @2 of a pair), # a digit.
FUNCTIONS = (
    ("double", "number", "@ * 2",
     ("double a number", "return twice its argument", "double its argument")),
    ("triple", "number", "@ * 3",
     ("triple a number", "return three times its argument", "triple its argument")),
    ("square", "number", "@ * @",
     ("square a number", "return the square of a number", "square its argument")),
    ("cube", "number", "@ * @ * @",
     ("cube a number", "return the cube of a number", "cube its argument")),
    ("half", "number", "@ / 2",
     ("halve a number", "return half of a number", "divide a number by two")),
    ("negate", "number", "-@",
     ("negate a number", "return the negative of a number", "change the sign of a number")),
    ("increment", "number", "@ + 1",
     ("increment a number", "add one to a number", "return the next number")),
    ("decrement", "number", "@ - 1",
     ("decrement a number", "subtract one from a number", "return the number before")),
    ("is_even", "number", "@ % 2 == 0",
     ("check if a number is even", "tell whether a number is even", "return True for even numbers")),
    ("is_odd", "number", "@ % 2 == 1",
     ("check if a number is odd", "tell whether a number is odd", "return True for odd numbers")),
    ("is_positive", "number", "@ > 0",
     ("check if a number is positive", "tell whether a number is above zero",
      "return True for positive numbers")),
    ("is_negative", "number", "@ < 0",
     ("check if a number is negative", "tell whether a number is below zero",
      "return True for negative numbers")),
    ("is_zero", "number", "@ == 0",
     ("check if a number is zero", "tell whether a number is zero", "return True for zero")),
    ("times", "number", "@ * #",
     ("multiply a number by #", "return # times its argument", "multiply its argument by #")),
    ("plus", "number", "@ + #",
     ("add # to a number", "return its argument plus #", "add # to its argument")),
    ("minus", "number", "@ - #",
     ("subtract # from a number", "return its argument minus #", "take # away from a number")),
    ("remainder", "number", "@ % #",
     ("return the remainder of a number by #", "give the remainder modulo #",
      "return its argument modulo #")),
    ("add", "pair", "@1 + @2",
     ("add two numbers", "return the sum of two numbers", "sum two numbers")),
    ("subtract", "pair", "@1 - @2",
     ("subtract two numbers", "return the difference of two numbers",
      "subtract the second number from the first")),
    ("multiply", "pair", "@1 * @2",
     ("multiply two numbers", "return the product of two numbers", "compute the product of two numbers")),
    ("divide", "pair", "@1 / @2",
     ("divide two numbers", "return the quotient of two numbers", "divide the first number by the second")),
    ("largest", "pair", "max(@1, @2)",
     ("return the larger of two numbers", "find the maximum of two numbers",
      "give the larger of two numbers")),
    ("smallest", "pair", "min(@1, @2)",
     ("return the smaller of two numbers", "find the minimum of two numbers",
      "give the smaller of two numbers")),
    ("same", "pair", "@1 == @2",
     ("check if two values are equal", "tell whether two values are the same", "compare two values")),
    ("first", "list", "@[0]",
     ("return the first item of a list", "give the first element of a list", "get the first item of a list")),
    ("last", "list", "@[-1]",
     ("return the last item of a list", "give the last element of a list", "get the last item of a list")),
    ("count", "list", "len(@)",
     ("return the length of a list", "count the items of a list", "give the number of items in a list")),
    ("total", "list", "sum(@)",
     ("return the sum of a list", "sum a list", "add all items of a list")),
    ("sort", "list", "sorted(@)",
     ("sort a list", "return a sorted list", "put a list in order")),
    ("reverse", "list", "@[::-1]",
     ("reverse a list", "return a list backwards", "turn a list around")),
    ("upper", "text", "@.upper()",
     ("turn a text into upper case", "make a text upper case", "return a text in capital letters")),
    ("lower", "text", "@.lower()",
     ("turn a text into lower case", "make a text lower case", "return a text in small letters")),
)


def digits(rng: random.Random, count: int) -> list[int]:
    """`count` different digits."""
    return rng.sample(range(10), count)


def listed(values: list[int]) -> str:
    """The values as in a sentence: "3, 8, 5"."""
    return ", ".join(map(str, values))


def text_value(rng: random.Random) -> tuple[str, str, str, str]:
    """An expression about text, as (kind, expression, answer, thinking)."""
    kind = rng.choice(("len", "concat", "repeat", "upper", "lower"))
    word, piece, other, times = rng.choice(WORDS), rng.choice(PIECES), rng.choice(PIECES), rng.choice((2, 3))
    if kind == "len":
        return kind, f'len("{word}")', str(len(word)), f"{word} has {len(word)} letters."
    if kind == "concat":
        return kind, f'"{piece}" + "{other}"', f'"{piece + other}"', f"{piece} then {other}."
    if kind == "repeat":
        return kind, f'"{piece}" * {times}', f'"{piece * times}"', f"{piece} is repeated {times} times."
    if kind == "upper":
        return kind, f'"{word}".upper()', f'"{word.upper()}"', f"upper makes {word} all capital letters."
    return kind, f'"{word}".lower()', f'"{word.lower()}"', f"lower makes {word} all small letters."


def list_value(rng: random.Random) -> tuple[str, str, str, str]:
    """An expression about three digits, as (kind, expression, answer, thinking)."""
    kind = rng.choice(("max", "min", "sorted", "index", "reversed", "in", "sum", "len_list"))
    xs = digits(rng, 3)
    if kind == "max":
        return kind, f"max({listed(xs)})", str(max(xs)), f"max picks the largest of {listed(xs)}."
    if kind == "min":
        return kind, f"min({listed(xs)})", str(min(xs)), f"min picks the smallest of {listed(xs)}."
    if kind == "sorted":
        return kind, f"sorted({xs})", str(sorted(xs)), f"{listed(xs)} in order: {listed(sorted(xs))}."
    if kind == "index":
        i = rng.choice((0, 1, 2, -1))
        place = ("first", "second", "third", "last")[i]
        return kind, f"{xs}[{i}]", str(xs[i]), f"Index {i} is the {place} item."
    if kind == "reversed":
        form = rng.choice(("{}[::-1]", "list(reversed({}))")).format(xs)
        return kind, form, str(xs[::-1]), f"{listed(xs)} backwards."
    if kind == "in":
        x = rng.choice(xs) if rng.random() < 0.5 else rng.randint(0, 9)
        return kind, f"{x} in {xs}", str(x in xs), f"{x} is {'one' if x in xs else 'none'} of {listed(xs)}."
    if kind == "len_list":
        xs = digits(rng, rng.randint(1, 5))
        return kind, f"len({xs})", str(len(xs)), f"The list has {len(xs)} item{'s' * (len(xs) > 1)}."
    a, b = xs[:2]
    return kind, f"sum([{a}, {b}])", str(a + b), f"{a} + {b} = {a + b}"


def digit_value(rng: random.Random) -> tuple[str, str, str, str]:
    """An expression of two digits, as (kind, expression, answer, thinking)."""
    kind, sign = rng.choice((("add", "+"), ("add", "+"), ("subtract", "-"), ("multiply", "*"),
                             ("compare", ">"), ("compare", "<"), ("compare", "==")))
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    if kind == "subtract":
        a, b = max(a, b), min(a, b)
    if kind == "compare":
        answer = str(a > b if sign == ">" else a < b if sign == "<" else a == b)
        relation = "equal to" if a == b else "more than" if a > b else "less than"
        return kind, f"{a} {sign} {b}", answer, f"{a} is {relation} {b}."
    value = a + b if sign == "+" else a - b if sign == "-" else a * b
    return kind, f"{a} {sign} {b}", str(value), f"{a} {sign} {b} = {value}"


def third_person(description: str) -> str:
    """The description with its verb in the third person: "multiply a" becomes "multiplies a"."""
    verb, rest = description.split(" ", 1)
    return (verb[:-1] + "ies" if verb.endswith("ly") else verb + "s") + " " + rest


def function(rng: random.Random) -> Example:
    """A one-line function; the question may name it and its parameter, else both have their usual names."""
    name, kind, body, descriptions = rng.choice(FUNCTIONS)
    level = rng.choice((0, 0, 1, 2))
    phrasings = (FUNCTION_PHRASINGS, NAMED_PHRASINGS, FULL_PHRASINGS)[level]
    if level and rng.random() < 0.6:
        name = rng.choice(NAMES)
    parameter = rng.choice(PARAMETERS[kind]) if level == 2 else PARAMETERS[kind][0]
    digit = str(rng.randint(2, 9))
    description = rng.choice(descriptions).replace("#", digit)
    if kind == "pair":
        one, two = parameter.split(", ")
        body = body.replace("@1", one).replace("@2", two)
    body = body.replace("@", parameter).replace("#", digit)
    fields = {"d": description, "ds": third_person(description), "f": name, "p": parameter}
    question = noisy(rng, rng.choice(phrasings), fields, protect=True)
    return Example("python", "function", [user(question)], f"{name} of {parameter} returns {body}.",
                   f"def {name}({parameter}): return {body}")


def varied(rng: random.Random, difficulty: float) -> Example:
    """An example, one in four of which writes its strings in single quotes."""
    example = sample(rng, difficulty)
    if rng.random() < 0.25:
        question = example.messages[-1]["content"]
        if "'" not in question:
            example = example._replace(messages=[*example.messages[:-1], user(question.replace('"', "'"))])
    return example


def sample(rng: random.Random, difficulty: float) -> Example:
    """An expression to evaluate (two in three) or a function to write."""
    if rng.random() < 0.35:
        return function(rng)
    kind, expression, answer, thinking = rng.choice((text_value, list_value, list_value, digit_value))(rng)
    question = noisy(rng, rng.choice(VALUE_PHRASINGS), {"e": expression}, protect=True)
    return Example("python", kind, [user(question)], thinking, answer)
