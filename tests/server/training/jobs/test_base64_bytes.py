from __future__ import annotations

import base64

import pytest

from server.core.errors import BadRequest
from server.training.jobs.protocol import BestVector

# Bytes that are themselves base64, and whose own base64 needs padding.
DATA = b"AAAA" + bytes(range(252))
TEXT = base64.b64encode(DATA).decode()


def test_bytes_are_base64_in_json_and_bytes_in_python() -> None:
    best = BestVector(vector=DATA, step=1)
    assert best.vector == DATA
    assert best.model_dump()["vector"] == DATA
    assert best.model_dump(mode="json")["vector"] == TEXT
    assert BestVector.model_validate_json(best.model_dump_json()) == best
    assert BestVector.model_validate(best.model_dump(mode="json")) == best


@pytest.mark.parametrize("text", ["not base64!", TEXT[:-1], f"{TEXT}\n", "ä"])
def test_another_text_is_refused_by_the_name_of_its_field(text: str) -> None:
    with pytest.raises(BadRequest, match=r"best\.vector is not base64: ") as refused:
        BestVector.model_validate({"vector": text, "step": 1})
    assert (refused.value.param, refused.value.code) == ("best.vector", "invalid_value")
