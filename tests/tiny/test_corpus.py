"""The corpus: the same for the same seed, held-out questions kept apart, and every answer true."""

import ast
import calendar
import hashlib
import itertools
import random
import re
from collections import Counter
from collections.abc import Iterator

import pytest
from helpers import finished, tokenizer
from tiers import only

from qwen3_scratch.tiny import corpus
from qwen3_scratch.tiny.corpus import chat, code, copying, facts, is_held_out, spanish, stories
from qwen3_scratch.tiny.recipe import ROW, prompt_and_target

COUNT = 300


def some(domain: str, count: int = COUNT, seed: int = 5, **options) -> Iterator[corpus.Example]:
    return itertools.islice(corpus.examples(seed, domains=(domain,), **options), count)


def asked(example: corpus.Example) -> str:
    return example.messages[-1]["content"]


# ---- what is drawn ------------------------------------------------------------------------------

DIGEST = """
import hashlib, itertools
from qwen3_scratch.tiny import corpus
drawn = itertools.islice(corpus.examples(11, domains=corpus.LESSONS), 500)
print(hashlib.sha256(repr(list(drawn)).encode()).hexdigest())
"""


def test_a_seed_gives_the_same_examples_in_every_process():
    drawn = list(itertools.islice(corpus.examples(11, domains=corpus.LESSONS), 500))
    digest = hashlib.sha256(repr(drawn).encode()).hexdigest()
    assert finished("-c", DIGEST, env={"PYTHONHASHSEED": "1"}).out.strip() == digest
    assert drawn != list(itertools.islice(corpus.examples(12, domains=corpus.LESSONS), 500))


def test_held_out_questions_are_never_trained_on_not_even_as_an_earlier_turn():
    held = {corpus.normal(asked(one)).lower() for name in corpus.DOMAINS for one in some(name, 100, held_out=True)}
    assert len(held) > 200
    for domain in corpus.LESSONS:
        for example in some(domain, 500):
            assert not is_held_out(example)
            questions = [turn["content"] for turn in example.messages if turn["role"] == "user"]
            assert not held & {corpus.normal(question).lower() for question in questions}
    assert all(is_held_out(example) for domain in corpus.DOMAINS for example in some(domain, 50, held_out=True))


def test_one_question_in_ten_is_held_out_in_every_domain():
    rng = random.Random(0)
    for domain in ("stories", "arithmetic", "spanish", "chat"):  # the others have few questions: their share is rough
        held = sum(is_held_out(corpus.sample(domain, rng)) for _ in range(1000))
        assert 0.06 < held / 1000 < 0.14, domain


def test_every_domain_and_every_kind_of_question_comes_in_its_share():
    drawn = list(itertools.islice(corpus.examples(3, domains=corpus.LESSONS), 6000))
    shares = Counter(example.domain for example in drawn)
    assert set(shares) == set(corpus.LESSONS) > set(corpus.DOMAINS)
    assert all(abs(share / 6000 - 1 / len(shares)) < 0.02 for share in shares.values())
    kinds = {domain: {one.kind for one in drawn if one.domain == domain} for domain in corpus.LESSONS}
    assert kinds["stories"] == {*stories.ANSWERS, "several"} and kinds["facts"] == set(facts.RELATIONS)
    assert kinds["chat"] == {*chat.SMALL_TALK, "unknown"} and kinds["arithmetic"] == {"chain"}
    assert kinds["spanish"] == {f"{a}_{b}" for a in ("translate", "word", "phrase") for b in ("en_es", "es_en")}
    assert kinds["copying"] == {"repeat_words", "repeat_story", "next_word", "belongs"}
    assert len(kinds["python"]) == 18 and "function" in kinds["python"]
    weighted = itertools.islice(corpus.examples(3, weights={"stories": 3.0, "facts": 1.0}), 2000)
    shares = Counter(example.domain for example in weighted)
    assert set(shares) == {"stories", "facts"} and abs(shares["stories"] / 2000 - 0.75) < 0.04


def test_low_difficulty_gives_shorter_stories_and_sums():
    for domain, at_most in (("stories", 1), ("arithmetic", 2)):
        for example in some(domain, 100, difficulty=0.0):
            if domain == "stories":
                assert len(facts_of(" ".join(turn["content"] for turn in example.messages))) == 1
            else:
                assert len(example.thinking.splitlines()) <= at_most


@pytest.mark.parametrize("domain", only(corpus.LESSONS, "stories", "spanish"))
def test_every_example_is_rendered_by_the_chat_template_and_fits_a_row_of_training(domain):
    for example, thinking in itertools.product(some(domain), (True, False)):
        prompt, target = prompt_and_target(tokenizer(), example, thinking)
        assert len(prompt) + len(target) <= ROW
        text = tokenizer().decode([*prompt, *target])
        assert all(f"{turn['role']}\n{turn['content']}<|im_end|>" in text for turn in example.messages)
        assert text.endswith(f"</think>\n\n{example.answer}<|im_end|>\n")
        assert example.thinking.strip() and (f"<think>\n{example.thinking}\n</think>" in text) == thinking


# ---- every answer is true -----------------------------------------------------------------------

STEP = re.compile(
    r"(add|plus|\+|go forward|subtract|minus|-|go back|multiply by|times|\*) (\d)|(\d)", flags=re.IGNORECASE
)


def left_to_right(question: str) -> int:
    """The digits and operations of a question in words, one after the other, modulo 10."""
    value = None
    for operation, operand, first in STEP.findall(question):
        if value is None:
            value = int(first)
        elif operation.lower() in ("add", "plus", "+", "go forward"):
            value += int(operand)
        elif operation.lower() in ("subtract", "minus", "-", "go back"):
            value -= int(operand)
        else:
            value *= int(operand)
    return value % 10


def test_sums_are_right_and_worked_out_step_by_step():
    for example in some("arithmetic"):
        question = re.sub(r"(modulo|%) 10|from 0 to 9", "", asked(example), flags=re.IGNORECASE)
        expression = max(re.findall(r"[\d()+*\- ]+", question), key=len).strip()
        nested = "(" in expression or re.search(r"\d [+*-] \d [+*-] \d", expression)
        result = eval_safely(expression) % 10 if nested else left_to_right(question)
        assert example.answer == f"The result is {result}.", asked(example)
        value = None
        for line in example.thinking.splitlines():
            left, found = line.split(" = ")
            assert value is None or left.startswith(f"{value} ")
            value = int(found)
            assert eval_safely(left) % 10 == value
        assert value == result


ALLOWED = (
    ast.Expression, ast.Constant, ast.List, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Compare, ast.Lt, ast.Gt, ast.Eq,
    ast.In, ast.Call, ast.Name, ast.Load, ast.Attribute, ast.Subscript, ast.Slice, ast.UnaryOp, ast.USub,
)  # fmt: skip
CALLABLE = {name.__name__: name for name in (len, max, min, sorted, sum, list, reversed)}


def eval_safely(expression: str):
    """The value of an expression of numbers, texts, lists and a few functions, and of nothing else."""
    tree = ast.parse(expression, mode="eval")
    for node in ast.walk(tree):
        assert isinstance(node, ALLOWED), f"{expression}: {node} is more than such a question holds"
        assert not isinstance(node, ast.Attribute) or node.attr in ("upper", "lower")
    return eval(compile(tree, "question", "eval"), {"__builtins__": {}}, CALLABLE)


ITEMS = r"\[[\d, -]+\]"
TEXT = r"""(?:"\w+"|'\w+')"""
EXPRESSION = re.compile(
    rf"len\({TEXT}\)|{TEXT} \+ {TEXT}|{TEXT} \* \d|{TEXT}\.(?:upper|lower)\(\)|(?:max|min)\([\d, ]+\)"
    rf"|list\(reversed\({ITEMS}\)\)|(?:sorted|sum|len)\({ITEMS}\)|\d in {ITEMS}|{ITEMS}\[(?:-?\d|::-1)\]"
    r"|\d (?:[+*<>-]|==) \d"
)


def test_what_an_expression_gives_is_what_python_gives():
    seen = Counter()
    for example in some("python"):
        if example.kind != "function":
            (expression,) = EXPRESSION.findall(asked(example))
            assert ast.literal_eval(example.answer) == eval_safely(expression), expression
            seen[example.kind] += 1
    assert len(seen) == 17 and min(seen.values()) >= 2


MEANT = {  # what a function should do, said once more and in another way
    "double": lambda x: x + x, "triple": lambda x: x + x + x, "square": lambda x: x**2, "cube": lambda x: x**3,
    "half": lambda x: x * 0.5, "negate": lambda x: 0 - x, "increment": lambda x: x - -1, "decrement": lambda x: x + -1,
    "is_even": lambda x: not x & 1, "is_odd": lambda x: bool(x & 1), "is_positive": lambda x: not x <= 0,
    "is_negative": lambda x: not x >= 0, "is_zero": lambda x: not x, "times": lambda x, d: sum([x] * d),
    "plus": lambda x, d: x - -d, "minus": lambda x, d: x + -d, "remainder": lambda x, d: divmod(x, d)[1],
    "add": lambda x, y: sum((x, y)), "subtract": lambda x, y: x + -y, "multiply": lambda x, y: y * x,
    "divide": lambda x, y: (1 / y) * x, "largest": lambda x, y: sorted((x, y))[1], "same": lambda x, y: not x - y,
    "smallest": lambda x, y: sorted((x, y))[0], "first": lambda x: next(iter(x)), "last": lambda x: x[len(x) - 1],
    "count": lambda x: sum(1 for _ in x), "total": lambda x: sum(sorted(x)), "sort": lambda x: sorted(x),
    "reverse": lambda x: list(reversed(x)), "upper": lambda x: "".join(c.upper() for c in x),
    "lower": lambda x: "".join(c.lower() for c in x),
}  # fmt: skip
TRIED = {
    "number": [(-8,), (-3,), (0,), (1,), (6,), (7,)], "pair": [(6, 4), (4, 8), (5, 5)],
    "list": [([3, 1, 2],), ([7],)], "text": [("Kite",), ("a B",)],
}  # fmt: skip


def test_functions_do_what_was_asked_for():
    seen, digits = set(), re.compile("#")
    for example in some("python", 1500):
        if example.kind != "function":
            continue
        question, wanted = asked(example).lower(), []
        for name, kind, _, descriptions in code.FUNCTIONS:
            for text in descriptions:
                for form in (text, code.third_person(text)):
                    pattern = digits.sub(r"(\\d)", re.escape(form.lower()).replace(r"\#", "#"))
                    if found := re.search(rf"\b{pattern}(?!\w)", question):
                        wanted.append((found.end() - found.start(), name, kind, [int(d) for d in found.groups()[:1]]))
        _, name, kind, digit = max(wanted)  # "sum a list" is also the end of a longer description
        space: dict = {}
        exec(example.answer, {"__builtins__": CALLABLE}, space)
        (written,) = space.values()
        assert example.answer.startswith(f"def {written.__name__}(") and "\n" not in example.answer
        for values in TRIED[kind]:
            assert written(*values) == pytest.approx(MEANT[name](*values, *digit)), (asked(example), example.answer)
        named = re.search(r"\b(\w+)\(([\w, ]+)\)", asked(example))
        assert named is None or example.answer.startswith(f"def {named[0]}: return ")
        seen.add(name)
    assert seen == set(MEANT) == {row[0] for row in code.FUNCTIONS}


def test_spanish_and_english_sentences_are_one_to_one():
    rng, there, back = random.Random(0), {}, {}
    for _ in range(6000):
        en, es, groups = spanish.sentence(rng, 1.0)
        assert there.setdefault(en, es) == es and back.setdefault(es, en) == en
        assert all(part in en.lower() and other in es.lower() for part, other in groups)
    for pairs in (spanish.WORDS, spanish.PHRASES):
        assert len({en for en, _ in pairs}) == len({es for _, es in pairs}) == len(pairs)
    assert there["The cat is black."] == "El gato es negro." and back["¿Dónde está la casa?"] == "Where is the house?"
    feminine = {"niña", "mujer", "casa", "manzana", "mesa", "flor"}
    assert {noun.es for noun in spanish.NOUNS if noun.gender == "f"} == feminine
    for es in back:  # articles and adjectives agree with the noun
        for noun in spanish.NOUNS:
            for article, adjective in re.findall(rf"\b(el|la) {noun.es}\b(?: (\w+))?", es, flags=re.IGNORECASE):
                assert article.lower() == {"m": "el", "f": "la"}[noun.gender]
                row = next((row for row in spanish.COLOURS + spanish.QUALITIES if adjective in row[1:]), None)
                assert row is None or adjective == row[1 + (noun.gender == "f")]


def test_translations_are_those_of_the_grammar():
    words = dict(spanish.WORDS) | {en.strip(".?"): es.strip(".¿?") for en, es in spanish.PHRASES}
    for example in some("spanish"):
        to_spanish, kind = example.kind.endswith("en_es"), example.kind.split("_")[0]
        for line in example.thinking.splitlines():
            source, target = line.split(" = ")
            assert source.lower() in asked(example).lower() and target.lower() in example.answer.lower()
            if kind != "translate":
                assert words[source if to_spanish else target] == (target if to_spanish else source)


SPOTS = tuple(place.split()[-1] for place in stories.PLACES)  # "in the garden" -> "garden"
NAMED = {"n": stories.GIRLS + stories.BOYS, "p": SPOTS, "t": stories.THINGS, "c": stories.COLOURS}


def content(text: str) -> set[str]:
    """The people, places, things and colours that a text names."""
    return {word for words in NAMED.values() for word in words if re.search(rf"\b{word}\b", text, re.IGNORECASE)}


def facts_of(story: str) -> dict[str, set[str]]:
    """Person -> place, thing and colour, read sentence by sentence: what has no name is about the person before."""
    person, found = "", {}
    names, things, places = ("|".join(words) for words in (NAMED["n"], NAMED["t"], stories.PLACES))
    start = rf"(?:^|(?<=[.?:\n] )|(?<=\n))(?:(?i:{places}), )?"
    told = rf"{start}(?:{names}|He|She|The (?:\w+ )?(?:{things}))(?: is| has|, who| belongs)[^.?]*\."
    for sentence in re.findall(told, story):
        person = next(iter(content(sentence) & set(NAMED["n"])), person)
        found.setdefault(person, set()).update(content(sentence) - {person})
    found.pop("", None)
    return found


def test_answers_about_stories_are_what_a_reader_of_the_story_finds():
    for example in some("stories"):
        people = facts_of("\n".join(turn["content"] for turn in example.messages if turn["role"] == "user"))
        assert people and all(len(known) in (2, 3) for known in people.values()), example.messages
        assert content(example.answer) <= content(example.thinking)
        for sentence in re.split(r"(?<=\.) ", example.answer):
            said = content(sentence)
            owner = said & people.keys() or {name for name, known in people.items() if said <= known}
            assert len(owner) == 1 and said - owner <= people[next(iter(owner))], sentence
            assert said & content(asked(example)), "it speaks of what was asked about"


def test_retellings_list_every_person_of_the_story():
    for example in some("retelling", 200):
        lines = [content(line) for line in example.answer.splitlines()]
        assert lines == [{name, *known} for name, known in facts_of(asked(example)).items()]


def test_facts_are_rows_of_their_tables_and_calendars_agree():
    for example in some("facts"):
        relation, question = facts.RELATIONS[example.kind], asked(example).lower()
        told = {relation.answer.format(**fields(row)): row for row in relation.rows}
        row = told[example.answer]
        given = {"country": row[1:2], "number": row[:2]}.get(example.kind, row[:1])
        assert all(word.lower() in question for word in given)
    assert tuple(calendar.day_name) == facts.DAYS and tuple(calendar.month_name)[1:] == facts.MONTHS
    for relation in facts.RELATIONS.values():  # a question has one answer
        assert len({row[:-1] for row in relation.rows}) == len(relation.rows)
    assert len(set(facts.CAPITALS)) == len({b for _, b in facts.CAPITALS})


def fields(row: tuple[str, ...]) -> dict[str, str]:
    an = facts.article(row[0])
    found = dict(zip("abc", row, strict=False))
    return found | {"A": facts.upper_first(row[0]), "an": an, "An": facts.upper_first(an)}


def test_what_is_declined_is_what_no_other_domain_knows():
    known = {word.lower() for row in (*facts.CAPITALS, *facts.OPPOSITES, *spanish.WORDS) for word in row}
    known |= {row[0] for row in (*facts.ANIMALS, *facts.MORE_LEGS)}
    for words in (chat.COUNTRIES, chat.ANIMALS, chat.WORDS):
        assert not known & {word.lower() for word in words}
    answers = {answer for _, answer, _ in chat.SMALL_TALK.values()} | {chat.UNKNOWN}
    assert {example.answer for example in some("chat")} == answers


def test_copies_are_exact():
    for example in some("copying"):
        if example.kind.startswith("repeat"):
            assert asked(example).endswith(f": {example.answer}")
        elif example.kind == "next_word":
            before = example.thinking.split()[0]
            assert f"{before} {example.answer}".lower() in asked(example).lower()
        else:
            pairs = [line.split() for line in example.thinking.splitlines()]
            assert example.answer == ", ".join(value for _, value in pairs)
            assert all(f"{key} {value}" in asked(example) for key, value in pairs)
    assert len(set(copying.WORDS)) == len(copying.WORDS)


def test_an_answer_is_correct_whatever_its_white_space_and_nothing_else():
    example = next(iter(some("facts")))
    assert corpus.is_correct(example, f"\n {example.answer.replace(' ', '  ')} ")
    assert not corpus.is_correct(example, example.answer[:-1]) and not corpus.is_correct(example, "")
