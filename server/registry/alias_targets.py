"""What an alias stands for: one version, or several with weights, of which each request gets one.

Design decision: which version a user gets is not stored. A pick is a number in [0, 1), and the versions lie on that
line in order, each as long as its weight; so a user keeps a version while the weights stay, and few change over when
the weights do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

PICK_BITS = 53  # what a float can hold

Targets = Mapping[int, float]


def targets_from_json(text: str) -> Targets:
    """The targets that `targets_to_json` wrote."""
    return {int(version): weight for version, weight in json.loads(text).items()}


def targets_to_json(targets: Targets) -> str:
    """The same text for equal targets."""
    return json.dumps({str(version): float(targets[version]) for version in sorted(targets)})


def pick_version(targets: Targets, pick: float | None) -> int:
    """The version at `pick` in [0, 1) of the weights' sum; without a pick, the one with most weight, if equal the
    newest."""
    if pick is None:
        return max(targets, key=lambda version: (targets[version], version))
    versions = sorted(targets)
    # Divided first, because the sum of weights may not be finite where each of them is.
    largest = max(targets.values())
    shares = [targets[version] / largest for version in versions]
    left = pick * sum(shares)
    for version, share in zip(versions, shares, strict=True):
        if left < share:
            return version
        left -= share
    return versions[-1]


def sticky_pick(*parts: str) -> float:
    """A number in [0, 1), evenly spread, always the same for the same parts."""
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> (64 - PICK_BITS)) * 2.0**-PICK_BITS
