"""Spanish: short sentences from a small grammar, single words and a few set phrases, in both directions."""

import random
from typing import NamedTuple

from .common import Example, noisy, upper_first, user


class Noun(NamedTuple):
    """A noun with its gender, "m" or "f"; only living beings act, that is, may be a subject.

    A person as an object would need the Spanish personal "a" ("ve a la mujer"), so people are never objects.
    """

    en: str
    es: str
    gender: str
    acts: bool
    is_person: bool


NOUNS = (
    Noun("cat", "gato", "m", True, False), Noun("dog", "perro", "m", True, False),
    Noun("bird", "pájaro", "m", True, False), Noun("boy", "niño", "m", True, True),
    Noun("girl", "niña", "f", True, True), Noun("man", "hombre", "m", True, True),
    Noun("woman", "mujer", "f", True, True), Noun("house", "casa", "f", False, False),
    Noun("apple", "manzana", "f", False, False), Noun("book", "libro", "m", False, False),
    Noun("table", "mesa", "f", False, False), Noun("flower", "flor", "f", False, False),
)
ACTORS = tuple(noun for noun in NOUNS if noun.acts)
OBJECTS = tuple(noun for noun in NOUNS if not noun.is_person)
VERBS = (("sees", "ve"), ("has", "tiene"), ("wants", "quiere"), ("buys", "compra"), ("takes", "toma"),
         ("finds", "encuentra"), ("draws", "dibuja"), ("carries", "lleva"))
# (English, masculine, feminine); colours are for animals and things only.
COLOURS = (("black", "negro", "negra"), ("white", "blanco", "blanca"), ("red", "rojo", "roja"),
           ("green", "verde", "verde"))
QUALITIES = (("small", "pequeño", "pequeña"), ("big", "grande", "grande"), ("old", "viejo", "vieja"),
             ("good", "bueno", "buena"))
PHRASES = (
    ("Hello.", "Hola."), ("Goodbye.", "Adiós."), ("Thank you.", "Gracias."), ("Please.", "Por favor."),
    ("Good morning.", "Buenos días."), ("Good night.", "Buenas noches."), ("How are you?", "¿Cómo estás?"),
    ("Yes.", "Sí."), ("I love you.", "Te quiero."), ("See you tomorrow.", "Hasta mañana."),
)
WORDS = tuple((noun.en, noun.es) for noun in NOUNS) + VERBS + tuple(a[:2] for a in COLOURS + QUALITIES)

TO_SPANISH = (
    "Translate into Spanish: {s}", "Translate to Spanish: {s}", 'How do you say "{s}" in Spanish?',
    'What is "{s}" in Spanish?', "Say in Spanish: {s}", 'Translate "{s}" into Spanish.', "In Spanish: {s}",
    "Traduce al español: {s}", '¿Cómo se dice "{s}" en español?', "Put this into Spanish: {s}",
    "English to Spanish: {s}", 'I want to say "{s}" in Spanish.', "Give me the Spanish for: {s}",
    'What is the Spanish translation of "{s}"?', "How do I say this in Spanish? {s}",
    "Translate this sentence into Spanish.\n{s}", "{s}\nWhat is this in Spanish?",
)
TO_ENGLISH = (
    "Translate into English: {s}", "Translate to English: {s}", 'What does "{s}" mean?',
    'What does "{s}" mean in English?', "Say in English: {s}", 'Translate "{s}" into English.',
    "In English: {s}", "Traduce al inglés: {s}", '¿Cómo se dice "{s}" en inglés?',
    '¿Qué significa "{s}" en inglés?', "Put this into English: {s}", "Spanish to English: {s}",
    'What is the English translation of "{s}"?',
    'What is "{s}" in English?', "Give me the English for: {s}", "What does this mean? {s}",
    "Translate this sentence into English.\n{s}", "{s}\nWhat is this in English?",
)
WORD_TO_SPANISH = (
    "How do you say {s} in Spanish?", "What is {s} in Spanish?", "What is the Spanish word for {s}?",
    "Translate {s} into Spanish.", "Tell me the Spanish word for {s}.", "{s} in Spanish?", "Spanish for {s}?",
    "¿Cómo se dice {s} en español?", "Which Spanish word means {s}?", "Give me the Spanish for {s}.",
)
WORD_TO_ENGLISH = (
    "What does {s} mean?", "What is {s} in English?", "What does the Spanish word {s} mean?",
    "Translate {s} into English.", "Tell me the English word for {s}.", "{s} in English?",
    "What does {s} mean in English?", "¿Qué significa {s} en inglés?", "¿Cómo se dice {s} en inglés?",
    "Give me the English for {s}.",
)


def noun_phrase(rng: random.Random, noun: Noun, share: float) -> tuple[str, str]:
    """A pair such as "the black cat" and "el gato negro"; `share` is the chance of an adjective."""
    the = "el" if noun.gender == "m" else "la"
    if rng.random() >= share:
        return f"the {noun.en}", f"{the} {noun.es}"
    en, *forms = adjective(rng, noun)
    return f"the {en} {noun.en}", f"{the} {noun.es} {forms[noun.gender == 'f']}"


def adjective(rng: random.Random, noun: Noun) -> tuple[str, str, str]:
    """An adjective that suits the noun."""
    return rng.choice(QUALITIES if noun.is_person else COLOURS + QUALITIES)


def sentence(rng: random.Random, difficulty: float) -> tuple[str, str, list[tuple[str, str]]]:
    """An English sentence, its translation, and the pairs of word groups that show how."""
    share = 0.5 * min(difficulty, 1.0)
    form = rng.random()
    if form < 0.7:
        subject = rng.choice(ACTORS)
        groups = [noun_phrase(rng, subject, share), rng.choice(VERBS),
                  noun_phrase(rng, rng.choice([noun for noun in OBJECTS if noun != subject]), share)]
    elif form < 0.92:
        noun = rng.choice(NOUNS)
        en, *forms = adjective(rng, noun)
        groups = [noun_phrase(rng, noun, 0.0), rng.choice((("is", "es"), ("is", "es"), ("is not", "no es"))),
                  (en, forms[noun.gender == "f"])]
    else:
        en, es = noun_phrase(rng, rng.choice(NOUNS), share)
        return f"Where is {en}?", f"¿Dónde está {es}?", [("where is", "dónde está"), (en, es)]
    en, es = (" ".join(side) for side in zip(*groups, strict=True))
    return upper_first(en) + ".", upper_first(es) + ".", groups


def typed(rng: random.Random, text: str) -> str:
    """The text to translate as people type it: sometimes without its full stop or its capital."""
    if text.endswith(".") and rng.random() < 0.4:
        text = text[:-1]
    return text.lower() if rng.random() < 0.15 else text


def sample(rng: random.Random, difficulty: float) -> Example:
    """A sentence (three in four), a single word or a set phrase, from or to Spanish."""
    draw = rng.random()
    if draw < 0.75:
        kind, (en, es, groups) = "translate", sentence(rng, difficulty)
    elif draw < 0.93:
        kind, (en, es) = "word", rng.choice(WORDS)
        groups = [(en, es)]
    else:
        kind, (en, es) = "phrase", rng.choice(PHRASES)
        groups = [(en.strip(".?"), es.strip(".¿?"))]

    to_spanish = rng.random() < 0.5
    source, answer = (en, es) if to_spanish else (es, en)
    if kind == "word":
        phrasings: tuple[str, ...] = WORD_TO_SPANISH if to_spanish else WORD_TO_ENGLISH
        if rng.random() < 0.3:
            source = f'"{source}"'
    else:
        phrasings = TO_SPANISH if to_spanish else TO_ENGLISH
        source = typed(rng, source)
    question = noisy(rng, rng.choice(phrasings), {"s": source}, protect=True)
    lines = [f"{a} = {b}" if to_spanish else f"{b} = {a}" for a, b in groups]
    kind += "_en_es" if to_spanish else "_es_en"
    return Example("spanish", kind, [user(question)], "\n".join(lines), answer)
