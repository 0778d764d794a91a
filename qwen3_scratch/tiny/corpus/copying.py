"""Copying: say words again, say what follows a word, say what belongs to a word.

Nobody would ask for this; it is an exercise for the heads. To find a fact in a story, one head must note beside each
word which word stood before it, and another must look for that note. A story asks for this a few times in a hundred
tokens, and a small model then takes long to find it; here every single token of the answer asks for it.
"""

import random

from .common import BOYS, GIRLS, THINGS, Example, noisy, user
from .stories import COLOURS, FORMS, PLACES, people

WORDS = (*GIRLS, *BOYS, *THINGS, *COLOURS, *(place.split()[-1] for place in PLACES))

REPEAT = ("Repeat: {text}", "Say this again: {text}", "Copy this: {text}", "Repeat after me: {text}",
          "Write this once more: {text}")
NEXT = ("Which word comes after {word} here: {text}", "What follows {word} in this list: {text}",
        "Find the word behind {word}: {text}")
BELONGS = ("{text}. What belongs to {asked}?", "{text}. Say what goes with {asked}.", "{text}. What is with {asked}?",
           "What belongs to {asked}? {text}.")


def repeat_words(rng: random.Random) -> Example:
    """A random row of words, word for word; no word stands twice, so that each has one follower."""
    text = " ".join(rng.sample(WORDS, rng.randint(5, 18)))
    return Example("copying", "repeat_words", [user(rng.choice(REPEAT).format(text=text))], "I copy the text.", text)


def repeat_story(rng: random.Random) -> Example:
    """A story of one to three people, word for word."""
    cast = people(rng, rng.randint(1, 3))
    text = " ".join(sentence.format(**person) for person in cast for sentence in rng.choice(FORMS))
    return Example("copying", "repeat_story", [user(rng.choice(REPEAT).format(text=text))], "I copy the text.", text)


def next_word(rng: random.Random) -> Example:
    """The word behind a given one."""
    words = rng.sample(WORDS, rng.randint(4, 12))
    place = rng.randrange(len(words) - 1)
    question = rng.choice(NEXT).format(word=words[place], text=" ".join(words))
    thinking = f"{words[place]} {words[place + 1]}"
    return Example("copying", "next_word", [user(noisy(rng, question))], thinking, words[place + 1])


def belongs(rng: random.Random) -> Example:
    """What stands beside each of several words in a list of pairs, asked for in another order."""
    values = rng.choice((THINGS, COLOURS, tuple(place.split()[-1] for place in PLACES)))
    keys = rng.choice([words for words in (GIRLS + BOYS, THINGS) if words is not values])
    count = rng.randint(2, 7)
    pairs = dict(zip(rng.sample(keys, count), rng.sample(values, count), strict=False))
    asked = rng.sample(list(pairs), rng.randint(1, count))
    text = ", ".join(f"{key} {value}" for key, value in pairs.items())
    question = rng.choice(BELONGS).format(text=text, asked=" and ".join(asked))
    thinking = "\n".join(f"{key} {pairs[key]}" for key in asked)
    return Example("copying", "belongs", [user(question)], thinking, ", ".join(pairs[key] for key in asked))


def sample(rng: random.Random, difficulty: float) -> Example:
    """One exercise; they are as easy at the start as at the end."""
    return rng.choices((repeat_words, repeat_story, next_word, belongs), (4, 2, 2, 5))[0](rng)
