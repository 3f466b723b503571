"""Rewards of a model and of adapters on rows of a task, with their error bars."""
