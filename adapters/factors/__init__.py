"""The factors U, S, V of a base model: one file, how it is built, and the model's own files."""
