"""Licences of what the images hold: all are known, none asks that the whole be under it, and the list is complete."""

from __future__ import annotations

import csv
import re
from pathlib import Path

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
# Reviewed by hand, for they do not say it in a field: oss-harmony is Apache-2.0, setuptools MIT.
UNSAID = {"oss-harmony", "setuptools"}
# Redistributable in binary form, and only beside other parts of the same maker's.
PROPRIETARY = {"intel-cmplr-lib-ur", "intel-openmp"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> set[str]:
    text = (DEPLOY / "requirements-cpu.txt").read_text()
    return {normal(name) for name in re.findall(r"^([\w.-]+)(?:\[[^\]]*\])?==", text, re.MULTILINE)}


def listed() -> dict[str, str]:
    with (DEPLOY / "licenses.csv").open() as file:
        return {normal(row["Name"]): row["License"] for row in csv.DictReader(file)}


def test_every_package_is_listed() -> None:
    # Where this fails: make licenses
    assert listed().keys() == pinned()


def test_none_has_a_licence_that_would_reach_the_project() -> None:
    for name, licence in listed().items():
        strong = re.search(r"(?<!L)(?<!Lesser )\bA?GPL|Affero|SSPL|BUSL|Commons Clause|Non-?Commercial", licence)
        weaker = re.search(r"LGPL|Lesser|MPL|Mozilla", licence)
        assert strong is None or weaker is not None, f"{name}: {licence}"


def test_every_licence_is_known() -> None:
    assert {name for name, licence in listed().items() if licence == "UNKNOWN"} == UNSAID
    assert {name for name, licence in listed().items() if "Proprietary" in licence} == PROPRIETARY
