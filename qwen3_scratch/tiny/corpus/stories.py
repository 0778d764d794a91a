"""Stories: people who are somewhere with a coloured thing, and questions that look the facts up."""

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .common import BOYS, GIRLS, THINGS, Example, assistant, lower_first, noisy, upper_first, user

PLACES = ("in the garden", "in the kitchen", "in the park", "in the forest", "in the library", "in the shop",
          "at the beach", "at the school", "at the market", "at the station")
COLOURS = ("red", "blue", "green", "black", "white", "brown", "yellow", "pink")

# A form is a tuple of sentences. Slots: n name, p place (place at the start), c colour, t thing, he pronoun.
FORMS = (
    ("{n} is {p}.", "{he} has a {c} {t}."),
    ("{n} has a {c} {t}.", "{he} is {p}."),
    ("{n}, who has a {c} {t}, is {p}.",),
    ("{n}, who is {p}, has a {c} {t}.",),
    ("{n} is {p} with a {c} {t}.",),
    ("{n} is {p} and has a {c} {t}.",),
    ("{n} has a {c} {t} and is {p}.",),
    ("{place}, {n} has a {c} {t}.",),
    ("{n} has a {t}.", "The {t} is {c}.", "{n} is {p}."),
)
LEADS = ("Here is a story. ", "Read this story. ", "Story: ", "Listen. ")

PHRASINGS = {
    "who_has": (
        "Who has the {t}?", "Who has the {c} {t}?", "Tell me who has the {t}.", "Which person has the {t}?",
        "Do you know who has the {t}?", "Who is holding the {t}?", "Say who has the {t}.",
        "Who owns the {t}?", "Could you tell me who has the {t}?", "Name the person who has the {t}.",
        "Who has got the {t}?", "Whose {t} is it?", "Who has a {t}?", "I want to know who has the {t}."),
    "who_in": (
        "Who is {p}?", "Which person is {p}?", "Tell me who is {p}.", "Do you know who is {p}?", "Who's {p}?",
        "Say who is {p}.", "Name the person who is {p}.", "Could you tell me who is {p}?",
        "Who do we find {p}?", "Who can be found {p}?", "Who was {p}?", "I want to know who is {p}."),
    "where_person": (
        "Where is {n}?", "Tell me where {n} is.", "In which place is {n}?", "Where can I find {n}?",
        "Do you know where {n} is?", "Say where {n} is.", "Where do we find {n}?", "Where's {n}?",
        "Could you tell me where {n} is?", "Which place is {n} in?", "Where was {n}?",
        "I want to know where {n} is."),
    "what_has": (
        "What does {n} have?", "Tell me what {n} has.", "What thing does {n} have?", "What has {n} got?",
        "Do you know what {n} has?", "Say what {n} has.", "What is {n} holding?",
        "Which thing does {n} have?", "Could you tell me what {n} has?", "Name the thing that {n} has.",
        "What does {n} own?", "I want to know what {n} has."),
    "colour": (
        "What colour is the {t}?", "What color is the {t}?", "Tell me the colour of the {t}.",
        "What is the colour of the {t}?", "Which colour does the {t} have?",
        "Do you know the colour of the {t}?", "Say what colour the {t} is.", "Name the colour of the {t}.",
        "What colour is {n}'s {t}?", "Could you tell me what colour the {t} is?", "Which color is the {t}?",
        "What colour does the {t} have?", "I want to know the colour of the {t}."),
    "where_thing": (
        "Where is the {t}?", "Where is the {c} {t}?", "Tell me where the {t} is.",
        "In which place is the {t}?", "Where can I find the {t}?", "Where do we find the {t}?",
        "Do you know where the {t} is?", "Say where the {t} is.", "Which place is the {t} in?",
        "Could you tell me where the {t} is?", "Where is {n}'s {t}?", "Where's the {t}?",
        "I want to know where the {t} is."),
}
ANSWERS = {
    "who_has": "{n} has the {t}.",
    "who_in": "{n} is {p}.",
    "where_person": "{n} is {p}.",
    "what_has": "{n} has a {c} {t}.",
    "colour": "The {t} is {c}.",
    "where_thing": "The {t} is {p}.",
}
Person = dict[str, Any]  # what stands in the slots, and under "form" the sentences that tell of it
Question = tuple[str, Person]  # its kind, and about whom


def people(rng: random.Random, count: int) -> list[Person]:
    """The slots of `count` people; names, things and places differ, so every question has one answer."""
    rows = zip(rng.sample(GIRLS + BOYS, count), rng.sample(PLACES, count), rng.sample(THINGS, count),
               rng.sample(COLOURS, count), strict=True)
    return [{"n": n, "p": p, "t": t, "c": c, "he": "She" if n in GIRLS else "He", "place": upper_first(p),
             "at": p.split()[-1]}
            for n, p, t, c in rows]


def ask(rng: random.Random, questions: list[Question]) -> str:
    """One text that asks all the questions, with noise on the whole."""
    texts = [rng.choice(PHRASINGS[kind]).format(**person) for kind, person in questions]
    style = rng.random()
    if len(texts) > 1 and style < 0.15:
        joined = " ".join(f"{i}. {text}" for i, text in enumerate(texts, 1))
    elif len(texts) == 2 and style < 0.4:
        joined = texts[0][:-1] + rng.choice((" and ", ", and ")) + lower_first(texts[1])
    else:
        joined = rng.choice((" ", " ", "\n")).join(texts)
    return noisy(rng, joined)


def reply(questions: list[Question]) -> str:
    """One sentence per question."""
    return " ".join(ANSWERS[kind].format(**person) for kind, person in questions)


def place_question(rng: random.Random, story: str, question: str) -> str:
    """Put the question after the story, or before it one time in five."""
    if rng.random() < 0.8:
        return story + rng.choice((" ", " ", "\n")) + question
    # A question without its mark would run into the story: only a new line keeps them apart.
    return question + (rng.choice((" ", "\n")) if question[-1] in "?." else "\n") + story


class Notes(NamedTuple):
    """A form of thinking: how a person is noted down, and how a question is then looked up."""

    row: Callable[[Person], str]
    look: Callable[[str, Person], str]


# A ring: each word is followed by the next, also past the end. From the word that a question names one reads on
# until the answer comes, and every step asks only for a word's follower, which is what induction heads find.
WALKS = {"who_has": "{t} {n}", "who_in": "{at} {c} {t} {n}", "where_person": "{n} {at}", "what_has": "{n} {at} {c} {t}",
         "colour": "{t} {n} {at} {c}", "where_thing": "{t} {n} {at}"}
RING = Notes(lambda person: "- {n} {at} {c} {t} {n} {at} {c}".format(**person),
             lambda kind, person: "> " + WALKS[kind].format(**person))


# A story that tells of no place has shorter rings.
THING_FORMS = (("{n} has a {c} {t}.",), ("{n} has the {c} {t}.",), ("{n} has a {t}.", "The {t} is {c}."),
               ("The {c} {t} belongs to {n}.",))
THING_WALKS = {"who_has": "{t} {n}", "what_has": "{n} {c} {t}", "colour": "{t} {n} {c}"}
THING_RING = Notes(lambda person: "- {n} {c} {t} {n} {c}".format(**person),
                   lambda kind, person: "> " + THING_WALKS[kind].format(**person))


def noted(cast: list[Person], questions: list[Question], notes: Notes = RING) -> str:
    """Thinking that first notes everybody down and then looks up each question."""
    return "\n".join([notes.row(person) for person in cast] + [notes.look(kind, p) for kind, p in questions])


def retelling(rng: random.Random, difficulty: float) -> Example:
    """An exercise: the whole story as notes, so that every word of it must be found at its owner."""
    cast = people(rng, rng.randint(1, 3))
    story = " ".join(sentence.format(**person) for person in cast for sentence in rng.choice(FORMS))
    asked = rng.choice(("Make a list: ", "Who is where, with what? ", "List the people: ")) + story
    return Example("retelling", "list", [user(asked)], "I list the people.", "\n".join(map(RING.row, cast)))


def looking_up(rng: random.Random, difficulty: float) -> Example:
    """An exercise: many questions on rings that are given, so that nothing but the looks is left to do."""
    cast = people(rng, rng.randint(2, 3))
    pool = [(kind, person) for kind in ANSWERS for person in cast]
    questions = rng.sample(pool, rng.randint(3, 7))
    texts = " ".join(rng.choice(PHRASINGS[kind]).format(**person) for kind, person in questions)
    asked = "\n".join([*map(RING.row, cast), texts])
    return Example("looking_up", "ring", [user(asked)], "I read on from each word.", noted([], questions))


def varied(rng: random.Random, difficulty: float) -> Example:
    """A story, one in four of which tells of no place."""
    if rng.random() < 0.25:
        return sample(rng, difficulty, THING_RING, THING_FORMS, tuple(THING_WALKS))
    return sample(rng, difficulty)


def sample(rng: random.Random, difficulty: float, notes: Notes = RING,
           forms: Sequence[tuple[str, ...]] = FORMS, kinds: Sequence[str] = tuple(ANSWERS)) -> Example:
    """A story of one to three people with one to four questions, sometimes in a second turn."""
    # The cube root favours the largest story that the difficulty allows.
    cast = people(rng, 1 + round(2 * min(difficulty, 1.0) * rng.random() ** (1 / 3)))
    for person in cast:
        person["form"] = rng.choice(forms)
    story = " ".join(sentence.format(**person) for person in cast for sentence in person["form"])
    if rng.random() < 0.08:
        story = rng.choice(LEADS) + story

    pool = [(kind, person) for kind in kinds for person in cast]
    count = rng.randint(2, 4) if rng.random() < 0.5 else 1
    # By answer, since "who is in the park" and "where is Tom" would give the same sentence twice.
    by_answer = {reply([question]): question for question in rng.sample(pool, len(pool))}
    questions = list(by_answer.values())[:count]
    rest = [question for question in pool if question not in questions]
    if rng.random() < 0.1 and len(rest) > 1:
        earlier = rng.sample(rest, rng.choice((1, 1, 2)))
        messages = [user(place_question(rng, story, ask(rng, earlier))), assistant(reply(earlier)),
                    user(ask(rng, questions))]
    else:
        messages = [user(place_question(rng, story, ask(rng, questions)))]

    kind = questions[0][0] if count == 1 else "several"
    return Example("stories", kind, messages, noted(cast, questions, notes), reply(questions))
