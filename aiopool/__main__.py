"""`python -m aiopool` is the command `aiopool`."""

from aiopool.cli import main

if __name__ == "__main__":
    main()
