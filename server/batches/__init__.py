"""Batches: requests of a file, answered when nobody else asks, by whichever gateway has the batch's lease."""
