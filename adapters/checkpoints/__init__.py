"""Checkpoints of other libraries, converted to vectors, and plain LoRA made of vectors."""
