"""`python -m aiopool`: the command, where its script is not on the path. It knows nothing; see `aiopool.cli`."""

from aiopool.cli import main

if __name__ == "__main__":
    main()
