"""What the notebooks show that is no figure: the source of a function of this package."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Source:
    """Python code that a notebook shows coloured, and `print` as it stands."""

    names: tuple[str, ...]
    text: str

    def __repr__(self) -> str:
        return f"source({', '.join(self.names)})"

    def __str__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.text}\n```"


def source(*functions: Callable[..., Any]) -> Source:
    """The source of functions and classes, read from the files that were imported."""
    texts = [inspect.getsource(function).rstrip() for function in functions]
    return Source(tuple(function.__name__ for function in functions), "\n\n\n".join(texts))
