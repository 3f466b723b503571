"""A package, so that pytest stops its server after the last of its tests."""
