"""Facts: small closed tables (capitals, animals, days, opposites, ...) and many ways to ask for a row."""

import random
from typing import NamedTuple

from .common import Example, article, noisy, upper_first, user

CAPITALS = (
    ("France", "Paris"), ("Spain", "Madrid"), ("Italy", "Rome"), ("Germany", "Berlin"), ("England", "London"),
    ("Portugal", "Lisbon"), ("Greece", "Athens"), ("Austria", "Vienna"), ("Ireland", "Dublin"),
    ("Poland", "Warsaw"), ("Norway", "Oslo"), ("Sweden", "Stockholm"), ("Russia", "Moscow"),
    ("Japan", "Tokyo"), ("China", "Beijing"), ("Egypt", "Cairo"), ("Cuba", "Havana"), ("Peru", "Lima"),
    ("Canada", "Ottawa"), ("Kenya", "Nairobi"),
)
# (animal, its verb of sound, number of legs, its young)
ANIMALS = (
    ("cow", "moo", "four", "calf"), ("dog", "woof", "four", "puppy"), ("cat", "meow", "four", "kitten"),
    ("sheep", "baa", "four", "lamb"), ("pig", "oink", "four", "piglet"), ("horse", "neigh", "four", "foal"),
    ("duck", "quack", "two", "duckling"), ("hen", "cluck", "two", "chick"), ("lion", "roar", "four", "cub"),
    ("owl", "hoot", "two", "owlet"), ("frog", "croak", "four", "tadpole"),
    ("goose", "honk", "two", "gosling"),
)
MORE_LEGS = (("spider", "eight"), ("ant", "six"), ("bee", "six"), ("snake", "no"), ("fish", "no"))
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
          "November", "December")
OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("old", "young"), ("good", "bad"), ("happy", "sad"),
    ("long", "short"), ("high", "low"), ("light", "dark"), ("open", "closed"), ("full", "empty"),
    ("rich", "poor"), ("strong", "weak"), ("wet", "dry"), ("hard", "soft"), ("early", "late"),
)
THING_COLOURS = (
    ("the sky", "blue"), ("grass", "green"), ("snow", "white"), ("a banana", "yellow"), ("blood", "red"),
    ("coal", "black"), ("milk", "white"), ("a tomato", "red"), ("a frog", "green"), ("the sun", "yellow"),
)
# (whole, part, number)
NUMBERS = (
    ("week", "days", "7"), ("day", "hours", "24"), ("hour", "minutes", "60"), ("minute", "seconds", "60"),
    ("year", "months", "12"), ("year", "weeks", "52"), ("year", "days", "365"), ("century", "years", "100"),
)


class Relation(NamedTuple):
    """Rows of facts (a, b) or (a, b, c), how to ask for one, and how to answer."""

    phrasings: tuple[str, ...]
    answer: str
    thinking: str
    rows: tuple[tuple[str, ...], ...]


def following(names: tuple[str, ...], step: int) -> tuple[tuple[str, str], ...]:
    """Each name with the one `step` places later in the cycle."""
    return tuple((name, names[(i + step) % len(names)]) for i, name in enumerate(names))


# {a}, {b}, {c} are a row's columns; {an} is {a} with its article; {A} and {An} start a sentence.
RELATIONS = {
    "capital": Relation((
        "What is the capital of {a}?", "What's the capital of {a}?", "Tell me the capital of {a}.",
        "Which city is the capital of {a}?", "Name the capital of {a}.", "{a}: what is its capital?",
        "What is the capital city of {a}?", "Do you know the capital of {a}?", "The capital of {a}?",
        "What is {a}'s capital?", "Say the capital of {a}.", "I want to know the capital of {a}.",
        "Give me the capital of {a}."),
        "The capital of {a} is {b}.", "{a}: capital {b}.", CAPITALS),
    "country": Relation((
        "{b} is the capital of which country?", "Which country has the capital {b}?",
        "What country is {b} the capital of?", "Of which country is {b} the capital?",
        "Tell me which country has {b} as its capital.", "Name the country whose capital is {b}.",
        "Whose capital is {b}?", "Which country's capital is {b}?"),
        "{b} is the capital of {a}.", "{b}: capital of {a}.", CAPITALS),
    "sound": Relation((
        "What does {an} say?", "What sound does {an} make?", "Tell me what sound {an} makes.",
        "Which sound does {an} make?", "How does {an} sound?", "What is the sound of {an}?",
        "What noise does {an} make?", "Do you know what {an} says?", "Name the sound of {an}.",
        "What does the {a} say?"),
        "{An} says {b}.", "{a}: sound {b}.", tuple((a, b) for a, b, _, _ in ANIMALS)),
    "legs": Relation((
        "How many legs does {an} have?", "How many legs has {an}?", "Tell me how many legs {an} has.",
        "What is the number of legs of {an}?", "Do you know how many legs {an} has?",
        "{An} has how many legs?", "Say how many legs {an} has.", "How many legs are on {an}?",
        "Count the legs of {an}."),
        "{An} has {b} legs.", "{a}: {b} legs.", tuple((a, b) for a, _, b, _ in ANIMALS) + MORE_LEGS),
    "baby": Relation((
        "What is a baby {a} called?", "What do you call a baby {a}?", "What is the name of a baby {a}?",
        "What do you call a young {a}?", "Tell me the name for a baby {a}.", "What is a young {a} called?",
        "Name the baby of {an}.", "What is the baby of {an} called?", "What's a baby {a}?",
        "Do you know the word for a baby {a}?"),
        "A baby {a} is called a {b}.", "{a}: baby {b}.",
        tuple((a, b) for a, _, _, b in ANIMALS if b != "owlet")),
    "day_after": Relation((
        "What day comes after {a}?", "Which day is after {a}?", "What is the day after {a}?",
        "If today is {a}, what day is tomorrow?", "Today is {a}. What is tomorrow?",
        "Tell me the day after {a}.", "What day follows {a}?", "Name the day after {a}.",
        "Which day comes next after {a}?"),
        "The day after {a} is {b}.", "{a}: next {b}.", following(DAYS, 1)),
    "day_before": Relation((
        "What day comes before {a}?", "Which day is before {a}?", "What is the day before {a}?",
        "If today is {a}, what day was yesterday?", "Today is {a}. What was yesterday?",
        "Tell me the day before {a}.", "Name the day before {a}.", "Which day comes just before {a}?"),
        "The day before {a} is {b}.", "{a}: before {b}.", following(DAYS, -1)),
    "month_after": Relation((
        "What month comes after {a}?", "Which month is after {a}?", "What is the month after {a}?",
        "Tell me the month after {a}.", "What month follows {a}?", "Name the month after {a}.",
        "Which month comes next after {a}?", "If it is {a} now, what is the next month?"),
        "The month after {a} is {b}.", "{a}: next {b}.", following(MONTHS, 1)),
    "month_before": Relation((
        "What month comes before {a}?", "Which month is before {a}?", "What is the month before {a}?",
        "Tell me the month before {a}.", "Name the month before {a}.", "Which month comes just before {a}?",
        "If it is {a} now, what was the last month?", "Do you know the month before {a}?"),
        "The month before {a} is {b}.", "{a}: before {b}.", following(MONTHS, -1)),
    "opposite": Relation((
        "What is the opposite of {a}?", "What's the opposite of {a}?", "Tell me the opposite of {a}.",
        "Which word is the opposite of {a}?", "Name the opposite of {a}.", "The opposite of {a}?",
        "What is the contrary of {a}?", "Give the opposite of {a}.", "{a}: what is its opposite?",
        "Say the opposite of {a}.", 'What is the opposite of "{a}"?'),
        "The opposite of {a} is {b}.", "{a}: opposite {b}.", OPPOSITES + tuple((b, a) for a, b in OPPOSITES)),
    "thing_colour": Relation((
        "What colour is {a}?", "What color is {a}?", "Which colour is {a}?", "Tell me what colour {a} is.",
        "What is the colour of {a}?", "Which colour does {a} have?", "Do you know the colour of {a}?",
        "Name the colour of {a}.", "What is the color of {a}?"),
        "{A} is {b}.", "{a}: colour {b}.", THING_COLOURS),
    "number": Relation((
        "How many {b} are in {an}?", "How many {b} are there in {an}?", "How many {b} does {an} have?",
        "Tell me how many {b} are in {an}.", "{An} has how many {b}?", "What is the number of {b} in {an}?",
        "Do you know how many {b} {an} has?", "How many {b} make {an}?", "Say how many {b} are in {an}.",
        "How many {b} in {an}?"),
        "{An} has {c} {b}.", "{a}: {c} {b}.", NUMBERS),
}
KINDS = tuple(RELATIONS)
# A table with more rows is asked about more often; the square root keeps the small tables alive.
KIND_WEIGHTS = tuple(len(relation.rows) ** 0.5 for relation in RELATIONS.values())


def sample(rng: random.Random, difficulty: float) -> Example:
    """One fact, asked for in one of the phrasings of its relation."""
    kind = rng.choices(KINDS, KIND_WEIGHTS)[0]
    relation = RELATIONS[kind]
    row = rng.choice(relation.rows)
    fields = dict(zip("abc", row, strict=False))
    fields["A"] = upper_first(row[0])
    fields["an"] = article(row[0])
    fields["An"] = upper_first(fields["an"])
    # When noisy() lower-cases a template, {A} and {An} turn into {a} and {an}, which is what is wanted.
    question = noisy(rng, rng.choice(relation.phrasings), fields)
    return Example("facts", kind, [user(question)], relation.thinking.format(**fields),
                   relation.answer.format(**fields))
