"""What the notebooks show that is no figure: the source of a function of this package."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, repr=False)
class Source:
    """Python code that a notebook shows coloured, and a terminal as it stands."""

    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.text}\n```"


def source(*functions: Callable[..., Any]) -> Source:
    """The source of functions and classes, read from the files that were imported."""
    return Source("\n\n".join(inspect.getsource(function).rstrip() + "\n" for function in functions).rstrip())
