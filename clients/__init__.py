"""Programs that talk to the server over HTTP. They import nothing of `server` or `adapters`."""
