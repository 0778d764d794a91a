"""Whether a regular expression may take time that doubles with each letter: as (a+)+ does, and (?:\\d{3})+ does not.

It does where one text can be read in two ways within a repetition (Weideman et al., Analyzing Matching Time Behavior of
Backtracking Regular Expression Matchers, 2016). So the expression becomes positions, its letters and classes, and which
may follow which (Glushkov's automaton), and two ways are looked for that part at a position and meet there again.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache, reduce
from typing import Any, NamedTuple

from tokenizers import Regex, pre_tokenizers

TOKEN = re.compile(
    r"(?P<escape>\\(?:[pPx]\{[^}]*\}|x[0-9a-fA-F]{1,2}|u[0-9a-fA-F]{4}|.))|(?P<quantifier>[*+?]|\{\d*,?\d*\})|(?P<other>.)",
    re.DOTALL,
)
OPENING = re.compile(r"\(\?#[^)]*\)|\(\?(?P<flags>[im-]*)(?P<end>[:)])|\(\?(?:>|<\w+>)|\((?!\?)")
AROUND = re.compile(r"\(\?<?[=!]")
ANCHORS = set("bBAzZGK")
MOST, LARGEST = 200, 20_000  # positions that a counted repetition is written out to, and steps of the search
# Letters to compare classes by: the first 768, then one in 37.
SAMPLE = "".join(chr(code) for code in (*range(0x300), *range(0x300, 0x30000, 37)) if not 0xD800 <= code < 0xE000)


class Unknown(ValueError):
    """Syntax that is not analysed."""


class Part(NamedTuple):
    """A piece of the tree: a letter or class, or several parts in a row, to choose from, or repeated."""

    kind: str  # "letter", "row", "choice", "repeat"
    content: Any
    least: int = 1
    most: int | None = 1


def may_never_end(pattern: str) -> bool:
    """Whether matching can take exponential time; True for what is not understood and repeats a group, or calls one."""
    try:
        flags = "(?im:" if re.search(r"\(\?[a-z-]*i", pattern) else "(?m:"
        return any(_is_ambiguous(tree, flags) for tree in _Reader(pattern).read())
    except Exception:  # unknown syntax, too large, or what the library does not take apart from the rest
        return re.search(r"\)[*+{]|\)\?[*+?{]|\\g<|\\k<|\\[1-9]", pattern) is not None


class _Reader:
    """Reads a pattern as Oniguruma does. What stands in a look around is a tree of its own."""

    def __init__(self, pattern: str):
        self.pattern, self.at, self.trees = pattern, 0, list[Part]()

    def read(self) -> list[Part]:
        self.trees.append(self._choice())
        if self.at < len(self.pattern):
            raise Unknown
        return self.trees

    def _choice(self) -> Part:
        rows: list[list[Part]] = [[]]
        while self.at < len(self.pattern) and not self.pattern.startswith(")", self.at):
            if self.pattern[self.at] == "|":
                self.at += 1
                rows.append([])
            elif (part := self._quantified()) is not None:
                rows[-1].append(part)
        choices = [Part("row", row) for row in rows]
        return choices[0] if len(choices) == 1 else Part("choice", choices)

    def _quantified(self) -> Part | None:
        part = self._atom()
        while (found := TOKEN.match(self.pattern, self.at)) and (sign := found["quantifier"]) and sign != "{,}":
            self.at = found.end()
            if sign[0] == "{":
                least, _, most = sign[1:-1].partition(",")
                bounds = int(least or 0), (int(most) if most else None) if "," in sign else int(least or 0)
            else:
                bounds = int(sign == "+"), 1 if sign == "?" else None
                if self.pattern[self.at : self.at + 1] in ("?", "+"):  # as few as will do, or never giving back
                    self.at += 1
            if sign[0] == "{" and self.pattern.startswith("?", self.at):
                self.at += 1
            part = part and Part("repeat", part, *bounds)
        return part

    def _atom(self) -> Part | None:
        """One letter, class or group; None for what takes no letter."""
        rest = self.pattern[self.at :]
        if found := AROUND.match(rest):
            self.at += found.end()
            self.trees.append(self._closed())
            return None
        if rest[0] == "(":
            if not (found := OPENING.match(rest)):
                raise Unknown
            self.at += found.end()
            alone = rest.startswith("(?#") or found["end"] == ")"  # a comment, or flags up to the end of the group
            return None if alone else self._closed()
        found = TOKEN.match(rest)
        if rest[0] == "[":
            length = _length_of_class(rest)
        elif found is None or (found["quantifier"] and found[0] in "*+?"):
            raise Unknown
        else:
            length = found.end()
        self.at += length
        if rest[0] in "^$" or (rest[0] == "\\" and rest[1] in ANCHORS):
            return None
        if rest[0] == "\\" and rest[1] in "123456789gkcCM":
            raise Unknown
        return Part("letter", rest[:length])

    def _closed(self) -> Part:
        part = self._choice()
        if not self.pattern.startswith(")", self.at):
            raise Unknown
        self.at += 1
        return part


def _length_of_class(text: str) -> int:
    """Of [...] at the head of a text; a class may hold others, and a bracket first in it is a letter."""
    depth, at = 0, 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif named := re.match(r"\[:\^?\w+:\]", text[at:]):
            at += named.end() - 1
        elif text[at] == "[":
            depth += 1
            at += len(re.match(r"\^?\]?", text[at + 1 :])[0])  # type: ignore[index]
        elif text[at] == "]":
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    raise Unknown


class _Automaton:
    """Positions and how often each may follow each: 2 stands for several ways."""

    def __init__(self, flags: str):
        self.flags, self.letters = flags, list[str]()
        self.follow: Counter[tuple[int, int]] = Counter()

    def add(self, part: Part) -> tuple[int, Counter[int], Counter[int]]:
        """In how many ways a part is empty, and the positions that it may begin and end with."""
        if part.kind == "letter":
            self.letters.append(part.content)
            at = Counter({len(self.letters) - 1: 1})
            return 0, at, at
        if part.kind == "choice":
            several = [self.add(each) for each in part.content]
            return min(2, sum(e for e, _, _ in several)), _sum(f for _, f, _ in several), _sum(b for _, _, b in several)
        if part.kind == "row":
            nothing: Any = (1, Counter(), Counter())
            return reduce(self._join, map(self.add, part.content), nothing)
        return self._repeat(part.content, part.least, part.most)

    def _join(self, one: Any, other: Any) -> tuple[int, Counter[int], Counter[int]]:
        self._link(one[2], other[1])
        first, last = _sum([one[1], _times(other[1], one[0])]), _sum([other[2], _times(one[2], other[0])])
        return min(2, one[0] * other[0]), first, last

    def _link(self, ends: Counter[int], begins: Counter[int]) -> None:
        if len(self.letters) > LARGEST // 20 or len(self.follow) + len(ends) * len(begins) > LARGEST:
            raise Unknown
        for end in ends:
            for begin in begins:
                self.follow[end, begin] += ends[end] * begins[begin]

    def _repeat(self, part: Part, least: int, most: int | None) -> tuple[int, Counter[int], Counter[int]]:
        if most is not None and most > 1:
            if part.kind != "letter" and (
                _can_be_empty(part) or _is_ambiguous(Part("repeat", part, 1, None), self.flags)
            ):
                raise _EndlessError
            if not _is_unbounded(part) and _count(part) * most <= MOST:
                tail = Part("row", [])
                for _ in range(most - least):
                    tail = Part("repeat", Part("row", [part, tail]), 0, 1)
                return self.add(Part("row", [part] * least + [tail]))
        empty, first, last = self.add(part)
        if most != 1:
            self._link(last, first)
        return min(2, empty + (least == 0)) if most == 1 else min(1, empty + (least == 0)), first, last


class _EndlessError(Exception):
    """What is repeated a number of times may be empty, or read in two ways."""


def _sum(counters: Any) -> Counter[int]:
    total: Counter[int] = Counter()
    for counter in counters:
        total.update(counter)
    return total


def _times(counter: Counter[int], factor: int) -> Counter[int]:
    return Counter({key: count * factor for key, count in counter.items() if factor})


def _inner(part: Part) -> list[Part]:
    return [] if part.kind == "letter" else [part.content] if part.kind == "repeat" else part.content


def _is_unbounded(part: Part) -> bool:
    return (part.kind == "repeat" and part.most is None) or any(map(_is_unbounded, _inner(part)))


def _can_be_empty(part: Part) -> bool:
    if part.kind == "repeat":
        return part.least == 0 or _can_be_empty(part.content)
    return part.kind != "letter" and (all if part.kind == "row" else any)(map(_can_be_empty, part.content))


def _count(part: Part) -> int:
    inner = sum(map(_count, _inner(part))) if part.kind != "letter" else 1
    return inner * (part.most or 1) if part.kind == "repeat" else inner


def _is_ambiguous(tree: Part, flags: str) -> bool:
    automaton = _Automaton(flags)
    try:
        automaton.add(tree)
    except _EndlessError:
        return True
    after: dict[int, set[int]] = {}
    for one, other in automaton.follow:
        after.setdefault(one, set()).add(other)
    reach = {at: _reached(at, lambda at: after.get(at, ())) for at in after}
    loops = {at for at in after if at in reach[at]}
    if any(n > 1 and one in reach.get(other, ()) for (one, other), n in automaton.follow.items()):
        return True
    letters = {automaton.letters[at] for at in loops}
    sample = SAMPLE + "".join(map(_and_its_neighbours, sorted(letters)))

    @cache
    def meet(one: str, other: str) -> bool:
        """Whether two letters or classes have one in common. To look a class up takes longer than all else here."""
        short, long = sorted((one, other), key=len)
        return one == other or bool(_members(long, flags, members(short)))

    @cache
    def members(letter: str) -> str:
        return _members(letter, flags, sample)

    def steps(pair: tuple[int, int]) -> Iterator[tuple[int, int]]:
        for one in after[pair[0]] & loops:
            for other in after[pair[1]] & loops:
                if meet(automaton.letters[one], automaton.letters[other]):
                    yield one, other

    for at in loops:
        parted = {(one, other) for one, other in steps((at, at)) if one < other}
        if any((at, at) in _reached(pair, steps) for pair in parted):
            return True
    return False


def _reached(start: Any, steps: Any) -> set[Any]:
    """All that one or more steps lead to."""
    found, waiting, taken = set(), [start], 0
    while waiting:
        for following in steps(waiting.pop()):
            if (taken := taken + 1) > 10 * LARGEST:
                raise Unknown
            if following not in found:
                found.add(following)
                waiting.append(following)
    return found


def _and_its_neighbours(letter: str) -> str:
    return "".join(chr(ord(one) + step) for one in letter for step in (-1, 0, 1) if 0 < ord(one) < 0xD7FF)


def _members(letter: str, flags: str, sample: str) -> str:
    """What of a sample a letter or class stands for, as the library itself sees it."""
    cut = pre_tokenizers.Split(Regex(f"{flags}(?:{letter})+)"), "removed", invert=True)
    return "".join(piece for piece, _ in cut.pre_tokenize_str(sample))
