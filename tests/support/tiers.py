"""What `make test` keeps of a family of cases, and what it leaves to `make proof`."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import settings


def in_proof(*values: Any) -> Any:
    """For `parametrize`: a case of these values that is left to `make proof`."""
    return pytest.param(*values, marks=pytest.mark.proof)


def one_of_each(values: Iterable[Any], *kinds: Callable[[Any], Any]) -> list[Any]:
    """For `parametrize`: the values, of which those that are the first of a kind stay in `make test`.

    `kinds` are functions of a value; what one of them gives for it, if not None, is a kind that it belongs to.
    """
    seen, found = set(), []
    for value in values:
        own = {(number, kind(value)) for number, kind in enumerate(kinds) if kind(value) is not None}
        found.append(value if own - seen else in_proof(value))
        seen |= own
    return found


def only(values: Iterable[Any], *kept: Any) -> list[Any]:
    """For `parametrize`: the values, of which these alone stay in `make test`."""
    values = list(values)
    assert all(value in values for value in kept)
    return [value if value in kept else in_proof(value) for value in values]


def selected(request: pytest.FixtureRequest, *names: str) -> list[Any]:
    """The values of a parameter, or of several together, that the selected tests of a file have, each once."""
    items = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    calls = [item.callspec.params for item in items if item.callspec.params.keys() >= set(names)]
    found = [tuple(params[name] for name in names) for params in calls]
    return list(dict.fromkeys(found if len(names) > 1 else (value for (value,) in found)))


def examples(count: int) -> settings:
    """So many examples of a property in `make proof`, a fifth of them in `make test`."""
    return settings(max_examples=count if settings.get_current_profile_name() == "proof" else count // 5)
