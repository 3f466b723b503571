"""The commands of `tinylora` that talk to a server."""
