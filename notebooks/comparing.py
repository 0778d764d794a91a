"""Whether two runs of a cell show the same, though one processor may round otherwise than another.

Words are compared exactly, numbers up to what rounding can change, figures by what they draw (the entry FIGURE beside
a picture, see qwen3_scratch/plots/drawn.py), pictures by how they look from afar. notebooks/conftest.py asks when the
notebooks are tested, notebooks/settle.py when they are refreshed.
"""

import base64
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from typing import Any

from PIL import Image, ImageChops, ImageFilter, ImageStat

FIGURE, PICTURE = "application/vnd.qwen3-scratch.figure+json", "image/png"

# A printed number with the blanks around it, by which columns stay aligned. It was rounded, unless it is whole.
NUMBER = re.compile(
    r" *(?<![\w.])(≈?[-+−]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:e[-+]?\d+)?%?)(?!\w|\.\d|,\d{3}) *"
)
LAST_DIGIT = 1.001  # units of it: 0.25 is printed as 0.2 or 0.3
CLOSE = 1e-4  # of a printed number, or of the largest on an axis, of which fp32 moves what is drawn here by 5e-6
DECADES = 2e-3  # on a logarithmic axis, half a percent: fp32 moves small losses, differences of numbers near 1, by 3e-4
NOISE = 1e-5  # printed numbers below it are errors of rounding, of which only the order of magnitude comes again
BLUR = 6  # pixels: the edge of a black area that moves by one is then off by 17 levels of 255, a missing letter by 28
AFAR, OVERALL = 18, 2.0  # levels: at the worst place, or on average where a figure says that it hangs on rounding
PIXEL = 8  # levels, of any pixel of a picture beside which nothing says what it draws

Clean = Callable[[str], str]  # takes measured times out of a text


def differences(new: Mapping[str, Any], old: Mapping[str, Any], clean: Clean = str) -> dict[str, str]:
    """By kind of entry, what two runs show differently of one output. An entry that only one has is not compared."""
    fresh, stored = entries(new), entries(old)
    found = {kind: differ(kind, fresh, stored, clean) for kind in fresh.keys() & stored.keys()}
    return {kind: how for kind, how in found.items() if how}


def entries(output: Mapping[str, Any]) -> Any:
    """What an output shows, by kind: a stream its text, a result the forms in which it is shown."""
    return output.get("data", output)


def differ(kind: str, fresh: Mapping[str, Any], stored: Mapping[str, Any], clean: Clean) -> str:
    new, old = fresh[kind], stored[kind]
    if kind == PICTURE:
        return pictures_differ(new, old, fresh.get(FIGURE))
    if kind == FIGURE:
        return figures_differ(new, old)
    if kind in ("text", "text/plain"):
        return texts_differ(clean(new), clean(old))
    return "" if clean(str(new)) == clean(str(old)) else "not equal"


# ---- texts -----------------------------------------------------------------------------------------


def texts_differ(new: str, old: str) -> str:
    """The first word or number in which two texts differ by more than rounding; nothing if they do not."""
    for (word, number), (word_before, number_before) in zip_longest(parts(new), parts(old), fillvalue=("", None)):
        if word != word_before:
            return f"{word!r} where {word_before!r} was"
        if number != number_before and not (number and number_before and same_number(number, number_before)):
            return f"{number and number[0].strip()} where {number_before and number_before[0].strip()} was"
    return ""


def parts(text: str) -> Iterator[tuple[str, tuple[str, str] | None]]:
    """The words before each number, and the number with and without the blanks around it; at the end words alone."""
    at = 0
    for found in NUMBER.finditer(text):
        yield text[at : found.start()], (found[0], found[1])
        at = found.end()
    yield text[at:], None


def same_number(new: tuple[str, str], old: tuple[str, str]) -> bool:
    """Whether two printed numbers may be one before it was rounded, and stand where it would stand."""
    (wide, number), (wide_before, before) = new, old
    blanks = [len(all_of) - len(digits) for all_of, digits in (new, old)]
    if len(wide) != len(wide_before) and blanks[0] != blanks[1]:
        return False
    if number.lstrip("≈") == before.lstrip("≈"):
        return True
    if number.endswith("%") != before.endswith("%") or not (is_rounded(number) or is_rounded(before)):
        return False
    (value, unit), (value_before, unit_before) = map(read, (number, before))
    smaller, larger = sorted((abs(value), abs(value_before)))
    if 0 < larger < NOISE:
        return smaller == 0 or larger / smaller < 9.99
    return abs(value - value_before) <= max(LAST_DIGIT * min(unit, unit_before), CLOSE * larger)


def is_rounded(number: str) -> bool:
    return any(sign in number for sign in "≈.e%")


def read(number: str) -> tuple[float, float]:
    """The value of a printed number, and one unit of its last digit."""
    digits, _, exponent = number.strip("≈%").replace(",", "").replace("−", "-").partition("e")
    power = 10.0 ** int(exponent or 0)
    return float(digits) * power, power * 10.0 ** -len(digits.partition(".")[2])


# ---- figures and pictures ---------------------------------------------------------------------------


def figures_differ(new: Mapping[str, Any], old: Mapping[str, Any]) -> str:
    """What two figures draw differently: up to three places, each with what is there and what was."""
    found = []
    for part in ("texts", "numbers"):
        fresh, stored = new[part], old[part]
        found += [f"{place} is new" for place in sorted(fresh.keys() - stored.keys())]
        found += [f"{place} is missing" for place in sorted(stored.keys() - fresh.keys())]
        for place in sorted(fresh.keys() & stored.keys()):
            pair = fresh[place], stored[place]
            how = texts_differ(*pair) if part == "texts" else arrays_differ(*pair, stored.get(limits(place), ""))
            found += [f"{place}: {how}"] if how else []
    return "; ".join(found[:3])


def limits(place: str) -> str:
    """Where the ends stand of the axis along which numbers are drawn: "0 limits y" for "0 bar #08306b y"."""
    return f"{place.split()[0]} limits {place.split()[-1]}"


def arrays_differ(new: str, old: str, ends: str) -> str:
    """How much two arrays, as `digest` writes them, differ by more than rounding; `ends` are the ends of the axis."""
    (head, *fresh), (head_before, *stored) = map(numbers, (new, old))
    if head != head_before:
        return f"{head} where {head_before} was"
    decades, declared = "decades" in head, re.search(r"within ([\d.e-]+)", head)
    reach = max(map(abs, filter(math.isfinite, (*stored, *numbers(ends)[1:]))), default=1.0)
    allowed = float(declared[1]) if declared else DECADES if decades else CLOSE
    for value, before in zip(fresh, stored, strict=True):
        near = math.isclose(value, before, rel_tol=0, abs_tol=allowed * (1 if decades else reach))
        if not near and not (math.isnan(value) and math.isnan(before)):
            return f"{value:g} where {before:g} was"
    return ""


def numbers(written: str) -> list[Any]:
    head, _, values = written.partition(": ")
    return [head, *map(float, values.split())]


def pictures_differ(new: str, old: str, figure: Mapping[str, Any] | None) -> str:
    """How far two PNGs, in base 64, are apart; nothing for what two versions of matplotlib have drawn."""
    try:
        files = [io.BytesIO(base64.b64decode(text)) for text in (new, old)]
        for file in files:
            Image.open(file).verify()  # check sums: a damaged file is no picture
        pair = [Image.open(file) for file in files]
        drawn_by = {image.info.get("Software", "") for image in pair}
        if len(drawn_by) == 2 and all(name.startswith("Matplotlib version") for name in drawn_by):
            return ""  # versions of matplotlib draw different pixels: there is nothing to compare
        pair = [image.convert("RGBA") for image in pair]
    except (ValueError, OSError, SyntaxError) as error:  # what Pillow raises on a broken file
        return f"no picture: {error}"
    if pair[0].size != pair[1].size:
        return f"{pair[0].size} pixels where {pair[1].size} were"
    if figure is None:
        return beyond(PIXEL, largest(*pair))
    pair = [image.filter(ImageFilter.GaussianBlur(BLUR)) for image in pair]
    if any("within" in array.partition(":")[0] for array in figure["numbers"].values()):
        return beyond(OVERALL, max(ImageStat.Stat(ImageChops.difference(*pair)).mean))
    return beyond(AFAR, largest(*pair))


def largest(new: Image.Image, old: Image.Image) -> float:
    return max(most for _, most in ImageChops.difference(new, old).getextrema())


def beyond(bound: float, found: float) -> str:
    return "" if found <= bound else f"colours differ by {found:.3g} levels of 255, more than {bound:g}"
