"""`python -m tersenet` is the command `tersenet`."""

from .cli import main

if __name__ == "__main__":
    main()
