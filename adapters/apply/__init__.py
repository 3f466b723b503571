"""Vector and factors to matrices: R of every module for the engine, and deltas that can be trained."""
