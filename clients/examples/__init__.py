"""Programs to copy, each whole."""
