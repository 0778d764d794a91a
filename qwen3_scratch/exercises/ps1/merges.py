"""ps1, at the end: byte-pair merges learned by counting (notebook 02). `norm_and_rope` lists the whole set."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise

import torch

from ...tiny.evaluate import questions
from ..checking import Case, Exercise, Mistake, Stage, case
from ..material import randint
from .positions import SET

Pair = tuple[str, str]
Words = Mapping[str, int]
Pieces = Mapping[str, Sequence[str]]  # of each word

# ---- the steps -------------------------------------------------------------------------------


def counted(pieces: Pieces, words: Words) -> Counter[Pair]:
    """How often each pair of neighbours stands in the text."""
    found: Counter[Pair] = Counter()
    for word, split in pieces.items():
        for pair in pairwise(split):
            found[pair] += words[word]
    return found


def joined(split: Sequence[str], pair: Pair) -> list[str]:
    """The pieces of a word, with this pair made one wherever it stands, from left to right."""
    done: list[str] = []
    for piece in split:
        if done and (done[-1], piece) == pair:
            done[-1] += piece
        else:
            done.append(piece)
    return done


def first_in_the_alphabet(found: Counter[Pair]) -> Pair:
    return min(found, key=lambda pair: (-found[pair], pair))


def learn_merges(
    words: Words,
    count: int,
    weigh: Callable[[Pieces, Words], Counter[Pair]] = counted,
    choose: Callable[[Counter[Pair]], Pair] = first_in_the_alphabet,
    join: Callable[[Sequence[str], Pair], list[str]] = joined,
) -> list[Pair]:
    """The first merges of a text, in order: the most frequent pair is joined everywhere, and all is counted again."""
    pieces: Pieces = {word: list(word) for word in words}
    merges: list[Pair] = []
    while len(merges) < count and (found := weigh(pieces, words)):
        merges.append(choose(found))
        pieces = {word: join(split, merges[-1]) for word, split in pieces.items()}
    return merges


def asked(words: Words, count: int) -> list[Pair]:
    return learn_merges(words, count)


# ---- cases -----------------------------------------------------------------------------------


def drawn(g: torch.Generator, letters: str, words: int, longest: int) -> dict[str, int]:
    """Words of these letters, each with how often it comes."""
    sizes = randint(g, 2, longest + 1, words).tolist()
    texts = ["".join(letters[at] for at in randint(g, 0, len(letters), size).tolist()) for size in sizes]
    return {text: randint(g, 1, 10) for text in texts}


def some_words(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    for _ in range(4):
        yield case(drawn(g, "aehnt", 5, 4), randint(g, 1, 3))
    for _ in range(4):
        yield case(drawn(g, "aehnt", 8, 6), randint(g, 3, 7))


def repeating(seed: int) -> Iterator[Case]:
    g = torch.Generator().manual_seed(seed)
    yield case({"aaa": 3 + seed, "ba": 2}, 3, note="three of one letter")
    yield case({"aaaaa": 1, "aab": 5 + seed}, 4, note="five of one letter")
    yield case({"anana": 2 + seed, "an": 1}, 3, note="a pair twice in a word")
    for _ in range(4):
        yield case(drawn(g, "ab", 4, 6), 4, note="two letters")


def odd_words(seed: int) -> Iterator[Case]:
    yield case({"ab": 2 + seed, "cd": 2 + seed, "a": 9}, 2, note="two pairs as frequent as each other")
    yield case({"zy": 4 + seed, "xw": 4 + seed, "vu": 4 + seed}, 3, note="three pairs as frequent as each other")
    yield case({"the": 5 + seed, "a": 3}, 9, note="more merges than there are pairs")
    yield case({"a": 1 + seed}, 2, note="nothing to merge")
    yield case({"the": 5 + seed, "then": 3}, 0, note="no merge is asked for")
    yield case({}, 3, note="no text")
    yield case({"abcd": 1 + seed}, 3, note="as many merges as there are")
    yield case({"ab": 3, "cab": 3, "bc": 6 + seed, "abc": 1}, 4, note="pairs whose joined texts have another order")
    yield case(drawn(torch.Generator().manual_seed(seed), "aehnrst", 40, 9), 40, note="many merges")
    yield case({"n\u00e4her": 2 + seed, "\u4f60\u597d": 3}, 3, note="letters of other scripts")


def real_words(seed: int) -> Iterator[Case]:
    for domain in ("stories", "facts"):
        texts = [example.messages[-1]["content"] for example in questions(domain, 20, seed=500 + seed)]
        yield case(dict(Counter(f"\u0120{word}" for text in texts for word in text.split())), 12, note=f"{domain}")


# ---- mistakes --------------------------------------------------------------------------------


def once_each(pieces: Pieces, words: Words) -> Counter[Pair]:
    return counted(pieces, dict.fromkeys(words, 1))


def once_a_word(pieces: Pieces, words: Words) -> Counter[Pair]:
    found: Counter[Pair] = Counter()
    for word, split in pieces.items():
        for pair in set(pairwise(split)):
            found[pair] += words[word]
    return found


def first_met(found: Counter[Pair]) -> Pair:
    return found.most_common(1)[0][0]


def last_in_the_alphabet(found: Counter[Pair]) -> Pair:
    return max(found, key=lambda pair: (found[pair], pair))


def joined_once(split: Sequence[str], pair: Pair) -> list[str]:
    at = [*pairwise(split), pair].index(pair)
    return [*split[:at], "".join(split[at : at + 2]), *split[at + 2 :]] if at < len(split) - 1 else [*split]


def never_counted_again(words: Words, count: int) -> list[Pair]:
    found = counted({word: list(word) for word in words}, words)
    return sorted(found, key=lambda pair: (-found[pair], pair))[:count]


def joined_texts(words: Words, count: int) -> list[str]:
    return ["".join(pair) for pair in learn_merges(words, count)]


LEARN_MERGES = Exercise(
    "learn_merges",
    SET,
    asked,
    stages=(
        Stage("some words", some_words),
        Stage("letters that repeat", repeating),
        Stage("odd texts", odd_words),
        Stage("the real checkpoint's questions", real_words),
    ),
    mistakes=(
        Mistake("You count each word once; a pair counts as often as its word comes.",
                partial(learn_merges, weigh=once_each)),
        Mistake("You count a pair once in a word; it may stand there twice.", partial(learn_merges, weigh=once_a_word)),
        Mistake("All merges come from the first count; after each one all is counted again, with the joined pieces.",
                never_counted_again),
        Mistake("You join a pair once in a word; it is joined wherever it stands.",
                partial(learn_merges, join=joined_once)),
        Mistake("Of pairs as frequent as each other you take the one met first; take the first in the alphabet.",
                partial(learn_merges, choose=first_met)),
        Mistake("Of pairs as frequent as each other you take the last in the alphabet; take the first.",
                partial(learn_merges, choose=last_in_the_alphabet)),
        Mistake("A merge is a pair of pieces, not the piece that it makes.", joined_texts),
    ),
    may=(joined,),
)  # fmt: skip
