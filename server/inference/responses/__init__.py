"""The Responses API beside the engine's part of it: what is stored, gone on from, and run in the background."""
