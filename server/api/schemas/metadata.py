"""The field `metadata` of what is made by a request whose other fields pydantic reads."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import BeforeValidator

from server.core.metadata import metadata_of


def _checked(value: object, *, printable: bool) -> object:
    metadata_of(value, printable=printable)
    return value


Metadata = Annotated[dict[str, str] | None, BeforeValidator(partial(_checked, printable=False))]
# Of what can be searched by it.
PrintableMetadata = Annotated[dict[str, str] | None, BeforeValidator(partial(_checked, printable=True))]
