"""The page that `make docs` makes of docs/openapi.json has all that is in it, and its links lead somewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "openapi.json"


def test_every_operation_and_object_is_there_and_every_link_leads_to_one(tmp_path: Path) -> None:
    page = tmp_path / "api.md"
    subprocess.run([sys.executable, ROOT / "deploy" / "api_reference.py", DOCUMENT, page], check=True)
    text, document = page.read_text(), json.loads(DOCUMENT.read_text())
    headings = re.findall(r"^### (.*)$", text, re.MULTILINE)
    operations = [f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods]
    objects = list(document["components"]["schemas"])
    assert sorted(headings) == sorted([*operations, *objects])
    for name, target in re.findall(r"\[(\w+)\]\(#(\w+)\)", text):
        assert name in objects and target == name.lower()
    for schema in document["components"]["schemas"].values():
        assert all(f"| `{field}` |" in text for field in schema.get("properties", ()))
