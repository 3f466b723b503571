"""Room on disk for bodies with files: half of it is one tenant's, and the longest file has to fit into that half."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo

# What a form with a file may have beside the file.
FORM_BYTES = 2**16


def _checked(room: int, info: ValidationInfo) -> int:
    longest = info.data.get("max_file_bytes")
    if longest is not None and room < (least := 2 * (longest + FORM_BYTES)):
        raise ValueError(
            f"the longest file ({longest} bytes by max_file_bytes) would never find room in a tenant's half of it; "
            f"expected at least {least}"
        )
    return room


# In bytes, of a class with the field `max_file_bytes` before it.
FileRoom = Annotated[int, Field(ge=1), AfterValidator(_checked)]
