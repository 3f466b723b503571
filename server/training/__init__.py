"""Training: what turns rewards into a vector."""
