"""The one family of errors that a user of this package can cause."""


class Error(ValueError):
    """One sentence: what is wrong, where, what was found, what was expected, what to do."""
