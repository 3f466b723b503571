"""How a batch ends that has not answered all its lines, and what its owner is told then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.batches import leases
from server.batches.leases import Wanted
from server.batches.states import Outcome

FILE_GONE = {
    "code": "input_file_deleted",
    "line": None,
    "message": "The input file was deleted while the batch was not finished; what had been answered is in its files.",
    "param": "input_file_id",
}
FILE_MISSING = {
    "code": "input_file_missing",
    "line": None,
    "message": "The storage no longer has the bytes of the input file, so the lines that were not answered are not in "
    "the error file. What had been answered is in the batch's files; make a batch of the other lines with a new file.",
    "param": "input_file_id",
}
# So long a batch that is to end waits for them: another gateway may have the storage that this one lacks.
MISSING_GRACE_S = 24 * 3600
NO_KEY = {
    "code": "api_key_revoked",
    "line": None,
    "message": "The API key that made the batch was revoked or has expired; what had been answered is in its files. "
    "Make a batch of the other lines with another key.",
    "param": None,
}
GIVEN_UP = {
    "code": "server_error",
    "line": None,
    "message": f"{leases.MAX_ATTEMPTS} attempts in a row ended without getting on with the batch; the server's log has "
    "the reason. What had been answered is in its files.",
    "param": None,
}
# How a batch ends for what is wanted of it, and what is said of the lines that were not answered.
ENDS: Mapping[Wanted, tuple[Outcome, tuple[Mapping[str, Any], ...]]] = {
    "cancel": ("cancelled", ()),
    "expire": ("expired", ()),
    "fail": ("failed", (FILE_GONE,)),
    "no key": ("failed", (NO_KEY,)),
    "less output": ("completed", ()),
}
