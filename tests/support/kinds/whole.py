"""Right answers of which one step may be another: what many answers of the bank are, but for that step.

Written out here, since an answer may not call the package's own.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise


def merges_of(
    words: dict[str, int],
    count: int,
    weigh: Callable[[int], int] = lambda times: times,
    text: Callable[[tuple[str, str]], object] = lambda pair: pair,
) -> list[tuple[str, str]]:
    """`learn_merges`. `weigh` says what a word's number counts for, `text` by what equal pairs are ordered."""
    pieces, merges = {word: list(word) for word in words}, []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, split in pieces.items():
            for pair in pairwise(split):
                pairs[pair] += weigh(words[word])
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], text(pair), pair))
        merges.append(best)
        for split in pieces.values():
            for at in range(len(split) - 1):
                if tuple(split[at : at + 2]) == best:
                    split[at : at + 2] = ["".join(best)]
    return merges


def streamed(
    pieces: Iterable[str],
    stops: list[str],
    shortest: int = 1,
    counts: Callable[[int, str], bool] = lambda number, held: True,
    cut: Callable[[list[tuple[int, int]]], int] = lambda found: min(found)[1],
) -> list[str]:
    """`stop_stream`. Beginnings of stops are held from `shortest` characters on; `counts` may let a stop pass.

    `cut` says where the text ends, given the end and the beginning of each stop string that was found.
    """
    held, shown = "", []
    for number, piece in enumerate(pieces):
        held += piece
        found = [(held.find(stop) + len(stop), held.find(stop)) for stop in stops if stop in held]
        if found and counts(number, held):
            return [*shown, held[: cut(found)]]
        starts = [size for stop in stops for size in range(shortest, len(stop)) if held.endswith(stop[:size])]
        sure = len(held) - max(starts, default=0)
        shown.append(held[:sure])
        held = held[sure:]
    return [*shown, held]


def counted(shapes, choices, num_experts) -> tuple[int, list[int]]:
    """`numbers_read` in two: all that belongs to no expert, and the experts, a number for each layer that has some."""
    whole = {name: math.prod(shape) for name, shape in shapes.items()}
    experts = sum(size for name, size in whole.items() if ".experts." in name)
    each = experts // max(1, len(choices) * num_experts)
    return sum(whole.values()) - experts, [each * len(layer.unique()) for layer in choices]
