"""The tiny base model of the training's tests."""

from tests.server.training.conftest import factors, path

SHARED = (factors, path)
