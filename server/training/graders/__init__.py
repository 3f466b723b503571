"""Graders: what turns a completion into a reward."""
