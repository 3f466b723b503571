"""The errors of this package, in one tree, so that an edge can turn any of them into "bad request".

A message says what was wrong, with what, and what to do; `field` names the input that it is about.
"""


class AdapterError(ValueError):
    """Something about an adapter, or about what it refers to, cannot be used.

    `field` is the name of the offending input as the caller wrote it (`groups`, `data`), or None.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class RecipeError(AdapterError):
    """A recipe is malformed, out of bounds, or does not fit the modules of the base model."""


class VectorError(AdapterError):
    """The numbers of a vector have the wrong length, shape or range."""


class FactorsError(AdapterError):
    """Factors cannot be read, built or found, or belong to another base model."""


class CheckpointError(AdapterError):
    """A file somebody uploaded or exported cannot be understood; `field` is the file, or a field of its config."""

    def __init__(self, message: str, *, field: str | None = "file") -> None:
        super().__init__(message, field=field)
