"""`python -m server serve`: the `tinylora` command."""

from server.launch.cli import main

if __name__ == "__main__":
    main()
