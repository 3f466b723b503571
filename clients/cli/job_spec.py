"""A job as the command line describes it: a YAML file in the shape of the API, and flags, which win over it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MATH: Mapping[str, Any] = {"type": "math", "name": "math", "reference": "{{ item.answer }}"}
FIELDS = (
    "training_file",
    "validation_file",
    "model",
    "method",
    "tinylora",
    "suffix",
    "seed",
    "metadata",
    "integrations",
    "hyperparameters",
)
METHODS = ("reinforcement", "supervised", "evolution")
# A number in JSON and for Python, and a text in YAML 1.1, which wants a point in it.
_EXPONENT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$")


class SpecError(ValueError):
    """The description of a job cannot be used. The message says where and why."""


def read_spec(file: Path) -> dict[str, Any]:
    """The job in a YAML (or JSON) file; paths in it are relative to its directory. Raises SpecError."""
    spec = read_yaml(file)
    for field in spec:
        if field not in FIELDS:
            raise SpecError(f"{file} has the field {field!r}; known are {', '.join(FIELDS)}")
    for field in ("training_file", "validation_file"):
        if isinstance(spec.get(field), str) and (file.parent / spec[field]).exists():
            spec[field] = str(file.parent / spec[field])
    return spec


def read_yaml(file: Path) -> dict[str, Any]:
    """The object in a YAML or JSON file. Raises SpecError."""
    import yaml

    try:
        value = _value_of(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise SpecError(f"{file} has no object in it, expected such as 'training_file: train.jsonl'")
    return value


def with_flags(
    spec: Mapping[str, Any],
    *,
    method: str | None,
    grader: str | None,
    settings: Mapping[str, Any],
    **fields: Any,
) -> dict[str, Any]:
    """The arguments of the client's `fine_tuning.jobs.create`.

    grader: "math", or a file of one. settings: of `tinylora`. fields: the others of FIELDS, None for what is not given.
    Raises SpecError.
    """
    job = {**spec, **{name: value for name, value in fields.items() if value is not None}}
    if not job.get("training_file"):
        raise SpecError("there is nothing to train on: give a JSONL file, or a --config with training_file")
    for field in ("training_file", "validation_file"):
        if isinstance(job.get(field), str):
            job[field] = _file(job[field])
    job["tinylora"] = _over(_object(job.get("tinylora"), "tinylora"), settings)
    job["method"] = _method(job.get("method"), method, grader)
    return job


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`group_size=8`, `recipe.groups=1` as an object; values are YAML. Raises SpecError."""
    import yaml

    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not name or not equals:
            raise SpecError(f"--set is {pair!r}, expected name=value such as group_size=8")
        *outer, last = name.split(".")
        place = settings
        for part in outer:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise SpecError(f"--set {name} is a part of {part}, which another --set says is {place!r}")
        try:
            place[last] = _value_of(text)
        except yaml.YAMLError as error:
            raise SpecError(f"--set {name} is {text!r}, which is no value: {' '.join(str(error).split())}") from error
    return settings


def _value_of(text: str) -> Any:
    """The value that is written in YAML, in which 1e-4 is a number. Raises YAMLError."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))
    return yaml.load(text, Loader)


def _file(given: str) -> str | Path:
    """The id of an uploaded file as it is, else a path that is there."""
    path = Path(given)
    # A pipe is a file, too.
    if path.exists() and not path.is_dir():
        return path
    if given.startswith("file-"):
        return given
    raise SpecError(f"there is no file {given}, and it is not the id of an uploaded one (file-...)")


def _object(given: Any, field: str) -> Mapping[str, Any]:
    """What a job has in `field`, an object; nothing is an empty one."""
    if given is not None and not isinstance(given, Mapping):
        raise SpecError(f"{field} is {given!r}, expected an object")
    return given or {}


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with what `above` has, which wins; objects that both have are merged in the same way."""
    merged = {**below, **above}
    for name in below.keys() & above.keys():
        if isinstance(below[name], Mapping) and isinstance(above[name], Mapping):
            merged[name] = _over(below[name], above[name])
    return merged


def _method(in_file: Any, method: str | None, grader: str | None) -> dict[str, Any]:
    given = in_file if isinstance(in_file, Mapping) else {"type": in_file} if in_file else {}
    kind = method or given.get("type") or "reinforcement"
    if kind not in METHODS:
        raise SpecError(f"the method is {kind!r}, expected {', '.join(METHODS)}")
    part = dict(_object(given.get(kind), f"method.{kind}"))
    if kind == "supervised":
        if grader is not None:
            raise SpecError("--grader is given, and supervised training has none: it learns the answers in the file")
    elif grader is not None:
        part["grader"] = dict(MATH) if grader == "math" else read_yaml(Path(grader))
    else:
        part.setdefault("grader", dict(MATH))
    return {"type": kind, kind: part}
