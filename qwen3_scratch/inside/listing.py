"""What the notebooks show that is no figure: the source of a function of this package."""

import inspect
import re
from collections.abc import Callable
from typing import Any


class Source(str):
    """Python code that a notebook shows coloured, and `print` as it stands."""

    names: tuple[str, ...]

    def __repr__(self) -> str:
        return f"source({', '.join(self.names)})"

    def _repr_markdown_(self) -> str:
        return f"```python\n{self}\n```"


def source(*functions: Callable[..., Any], brief: bool = False) -> Source:
    """The source of functions and classes, read from the files that were imported.

    `brief` keeps only the first line of each docstring.
    """
    found = Source("\n\n\n".join(inspect.getsource(function).rstrip() for function in functions))
    if brief:
        found = Source(re.sub(r'("""[^"\n]+)\n\n[^"]*"""', r'\1"""', found))
    found.names = tuple(function.__name__ for function in functions)
    return found
