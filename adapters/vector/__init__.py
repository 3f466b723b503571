"""A vector and its recipe: the numbers, their bytes, mixing, and the fixed random projection."""
