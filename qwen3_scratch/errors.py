"""The one family of errors that a user of this package can cause."""


class Error(ValueError):
    """One sentence: what is wrong, where, what was found, what was expected, what to do."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it: the sentence, and not the way through our functions (an IPython hook)."""
        return [f"{type(self).__name__}: {self}"]
