"""Submit jobs to a pool in another process, over HTTP, and read their results.

    aiopool serve tasks.py:handlers --token-file token.txt &
    POOL_TOKEN="$(cat token.txt)" python examples/http_client.py http://127.0.0.1:8765/

The server has a function that is registered as "add", with the parameters a and b. The token is not in the arguments:
everybody on the machine sees those.
"""

import os
import sys

from aiopool.web import Client


def main(url: str, token: str) -> None:
    """Run some jobs there."""
    with Client(url, token=token, pool="pool") as client:
        job = client.submit("add", {"a": 1, "b": 2}, priority=1)
        print(client.wait(job, timeout=30))
        print(sum(client.map("add", ({"a": n, "b": n} for n in range(10)))))


if __name__ == "__main__":
    main(sys.argv[1], os.environ["POOL_TOKEN"])
