"""How far an answer is from what it should be, in words that say where to look."""

from collections.abc import Mapping, Sequence, Set
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor

NEAR = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 2.0**-9, torch.bfloat16: 2.0**-7}
"""Of the largest expected number, for each type of number: another order of the same sums moves fp32 by less than
this, and half precision by one or two roundings."""


def difference(
    found: Any,
    expected: Any,
    tolerance: int | float | None = None,
    share: int | float = 0,
    loose: bool | tuple[str, ...] = False,
) -> str | None:
    """What is wrong with `found`, or None where it agrees with `expected`.

    Two tensors agree if they have one shape and type and their numbers lie within `tolerance` times the largest
    expected one (None: `NEAR`), but for a `share` of them (0 to 1). Tuples, lists and dicts are compared part by part.
    What is `loose`, all or some named parts, may have another type of the same kind and lie in lists.
    """
    if loose is True:
        found = as_kind_of(expected, found)
    if isinstance(expected, Tensor):
        return tensor_difference(found, expected, tolerance, share)
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        if found.keys() != expected.keys():
            return f"the keys are {sorted(map(str, found))}, expected {sorted(map(str, expected))}"
        return _first(
            found, expected, list(expected), [f"entry {key!r}: " for key in expected], tolerance, share, loose
        )
    if isinstance(expected, (tuple, list)):
        if not isinstance(found, (tuple, list)):
            return f"found {kind(found)}, expected {kind(expected)}"
        if len(found) != len(expected):
            return f"found {len(found)} parts, expected {len(expected)}"
        names = getattr(expected, "_fields", range(len(expected)))
        return _first(
            found, expected, range(len(expected)), [f"part {name}: " for name in names], tolerance, share, loose
        )
    if isinstance(expected, float) and not isinstance(expected, bool):
        return _number_difference(found, expected, tolerance)
    if isinstance(expected, Set) and isinstance(found, Set):
        missing, extra = expected - found, found - expected
        sides = (("lacks", missing), ("wrongly has", extra))
        parts = [f"{word} {sorted(map(str, names))}" for word, names in sides if names]
        return f"the set {' and '.join(parts)}" if parts else None
    if type(found) is not type(expected):
        return f"found {kind(found)}, expected {kind(expected)}"
    if isinstance(expected, str) and found != expected:
        return _text_difference(found, expected)
    return None if found == expected else f"found {found!r:.80}, expected {expected!r:.80}"


def as_kind_of(expected: Any, found: Any) -> Any:
    """The same value as what is expected, where it is a whole or floating number or tensor of another type.

    Numbers of a tensor may lie in lists, tuples or an array. What is of another kind stays as it is.
    """
    if isinstance(found, (Tensor, np.ndarray, np.generic)) and not found.ndim and not isinstance(expected, Tensor):
        found = found.item()
    if not isinstance(expected, Tensor) or expected.dtype == torch.bool:
        return found
    if isinstance(found, (list, tuple, np.ndarray)):
        try:
            found = torch.as_tensor(np.array(found))
        except (TypeError, ValueError):
            return found
    if not isinstance(found, Tensor) or found.dtype == torch.bool:
        return found
    return found.to(expected.dtype) if found.is_floating_point() == expected.is_floating_point() else found


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal in every part: tensors, numbers, lists, dicts in their order, objects."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return (
            one.dtype == other.dtype
            and one.shape == other.shape
            and bool(torch.equal(one.nan_to_num(), other.nan_to_num()))
        )
    if isinstance(one, np.ndarray):
        return one.shape == other.shape and one.dtype == other.dtype and bool((one == other).all())
    if isinstance(one, Mapping):
        return same([*one.items()], [*other.items()])
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    if hasattr(one, "__dict__") and not isinstance(one, (type, FunctionType)):
        return same(vars(one), vars(other))
    return isinstance(one, FunctionType) or bool(one == other)  # functions made anew for each draw


def _text_difference(found: str, expected: str, shown: int = 40) -> str:
    """Where two texts part, with what stands before and behind."""
    differs = (place for place, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1])
    place = next(differs, min(len(found), len(expected)))
    around = slice(max(0, place - shown), place + shown)
    where = f"from character {place} on: " if place else ""
    return f"{where}found {found[around]!r}, expected {expected[around]!r}"


def _first(
    found: Any,
    expected: Any,
    keys: Sequence[Any],
    names: Sequence[str],
    tolerance: int | float | None,
    share: int | float,
    loose: bool | tuple[str, ...],
) -> str | None:
    for key, name in zip(keys, names, strict=True):
        free = loose if isinstance(loose, bool) else name.removeprefix("part ").removesuffix(": ") in loose
        if wrong := difference(found[key], expected[key], tolerance, share, free):
            return name + wrong
    return None


def _number_difference(found: Any, expected: float, tolerance: int | float | None) -> str | None:
    if isinstance(found, Tensor) and found.ndim == 0:
        found = found.item()
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return f"found {kind(found)}, expected a number"
    near = abs(found - expected) <= (1e-6 if tolerance is None else tolerance) * abs(expected) or found == expected
    return None if near else f"found {found:.6g}, expected {expected:.6g}"


def kind(value: Any) -> str:
    """What a value is, in a few words: its type, and the shape and type of a tensor."""
    if value is None:
        return "None (is there a `return`?)"
    if isinstance(value, Tensor):
        return f"a tensor {[*value.shape]} {dtype_name(value)}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{'an' if type(value).__name__[0] in 'aeio' else 'a'} {type(value).__name__}"


def brief(value: Any) -> str:
    """An argument in a few characters: the shape of a tensor, a short value, or what it is."""
    if isinstance(value, Tensor):
        return str([*value.shape]) + ("" if value.dtype == torch.float32 else f" {dtype_name(value)}")
    text = "" if isinstance(value, tuple) and hasattr(value, "_fields") else repr(value)  # of weights it takes long
    return text if 0 < len(text) <= 40 else type(value).__name__


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def tensor_difference(
    found: Any, expected: Tensor, tolerance: int | float | None = None, share: int | float = 0
) -> str | None:
    """The same for an expected tensor."""
    if not isinstance(found, Tensor):
        return f"found {kind(found)}, expected {kind(expected)}"
    if found.shape != expected.shape:
        turned = expected.ndim > 1 and found.shape == expected.transpose(-1, -2).shape
        hint = ": the last two dimensions are swapped" if turned else ""
        return f"the shape is {[*found.shape]}, expected {[*expected.shape]}{hint}"
    if found.dtype != expected.dtype:
        return f"the numbers are {dtype_name(found)}, expected {dtype_name(expected)}"
    bad = far_apart(found, expected, tolerance)
    if bad.sum() <= share * bad.numel():
        return None
    if found.is_floating_point() and (odd := found.isnan() & ~expected.isnan()).any():
        return f"{int(odd.sum())} of {odd.numel()} numbers are NaN"
    gap = torch.where(bad, (found.double() - expected.double()).abs().nan_to_num(float("inf")), -1.0)
    worst = tuple(int(part) for part in torch.unravel_index(gap.argmax(), gap.shape))
    at = f"at {[*worst]} " if worst else ""
    pairs = ([_figure(side[worst], digits) for side in (found, expected)] for digits in (5, 9))
    mine, theirs = next((pair for pair in pairs if pair[0] != pair[1]), ("nearly that", "what the reference gives"))
    figures = f"{at}found {mine}, expected {theirs}"
    return f"{int(bad.sum())} of {bad.numel()} numbers differ: {figures}{pattern(found, expected, bad, tolerance)}"


def _figure(number: Tensor, digits: int) -> str:
    value = number.item()
    return str(value) if isinstance(value, (bool, int)) else f"{value:.{digits}g}"


def far_apart(found: Tensor, expected: Tensor, tolerance: int | float | None = None) -> Tensor:
    """True where two tensors of one shape differ by more than the tolerance; infinities have to be equal."""
    if not expected.is_floating_point():
        return found != expected
    a, b = found.double(), expected.double()
    finite = b.abs()[b.isfinite()]
    scale = float(finite.max()) if finite.numel() else 0.0
    limit = (NEAR[expected.dtype] if tolerance is None else tolerance) * scale
    return ~((a == b) | ((a - b).abs() <= limit) | (a.isnan() & b.isnan()))


def pattern(found: Tensor, expected: Tensor, bad: Tensor, tolerance: int | float | None = None) -> str:
    """What is regular about the difference of two tensors of one shape, as the end of a sentence, or nothing."""

    def same(a: Tensor, b: Tensor) -> bool:
        return a.shape == b.shape and a.numel() > 1 and not far_apart(a, b, tolerance).any()

    if not expected.is_floating_point() or not found.isfinite().all() or not expected.isfinite().all():
        return _where(bad)
    if same(found, torch.zeros_like(found)) or (found == 0).all():
        return "; all found are zero"
    if same(-found, expected):
        return "; the sign is wrong everywhere"
    scale = float((found.double() * expected.double()).sum() / expected.double().pow(2).sum())
    if scale and same((found.double() / scale).to(found.dtype), expected):
        return f"; all are {scale:.4g} times what is expected: a factor is wrong or missing"
    offset = (found.double() - expected.double()).mean()
    if same((found.double() - offset).to(found.dtype), expected):
        return f"; all are off by {float(offset):.4g}"
    if expected.ndim > 1 and same(found, expected.transpose(-1, -2)):
        return "; the last two dimensions are swapped"
    for dim in range(expected.ndim):
        size = expected.shape[dim]
        if size > 2:
            early, late = [tensor.narrow(dim, start, size - 1) for tensor, start in ((found, 1), (expected, 0))]
            if same(early, late) or same(found.narrow(dim, 0, size - 1), expected.narrow(dim, 1, size - 1)):
                return f"; everything is off by one place along dimension {dim}"
        if size > 1 and same(found, expected.flip(dim)):
            return f"; the order along dimension {dim} is reversed"
    return _where(bad)


def _where(bad: Tensor) -> str:
    """Which rows along one dimension are right, if they are the first ones and the others are wrong."""
    for dim in reversed(range(bad.ndim)):
        wrong = bad.movedim(dim, 0).reshape(bad.shape[dim], -1).any(-1)
        right = int(wrong.long().argmax())
        if right > 0 and wrong[right:].all():
            return f"; along dimension {dim} the first {right} of {len(wrong)} agree and later ones do not"
        if len(wrong) > 2 and not wrong[-1] and wrong[: int(wrong.sum())].all():
            return (
                f"; along dimension {dim} the first {int(wrong.sum())} of {len(wrong)} are wrong and later ones agree"
            )
    return ""
