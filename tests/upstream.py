"""A simulated server: so many calls at once, each for a time by chance; others wait inside, or are refused."""

import asyncio
import random
from collections import deque


class Overload(Exception):
    """What a server answers that has too much to do."""

    status = 429


class Upstream:
    """Works on `capacity` calls at once.

    Attributes:
        capacity, seconds: may be changed at any time.
        times: when each call ended, and how long it took.
        refused: how many calls it refused.
    """

    def __init__(self, capacity, seconds=0.1, *, spread=0.5, refuse=False, seed=1):
        """Each call takes `seconds`, more or less by up to `spread` of that; `refuse`: none waits."""
        self.capacity, self.seconds = capacity, seconds
        self.times, self.refused = [], 0
        self._spread, self._refuse = spread, refuse
        self._chance = random.Random(seed)
        self._inside, self._line = 0, deque()

    async def call(self, _=None):
        """Be called."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        if self._inside >= self.capacity or self._line:
            if self._refuse:
                self.refused += 1
                await asyncio.sleep(self.seconds / 10)
                raise Overload
            turn = loop.create_future()
            self._line.append(turn)
            await turn
        else:
            self._inside += 1
        try:
            await asyncio.sleep(self.seconds * self._chance.uniform(1 - self._spread, 1 + self._spread))
        finally:
            self._inside -= 1
            self.let_in()
        self.times.append((loop.time(), loop.time() - begin))

    def let_in(self):
        """Take calls out of the line; to be called when the capacity has grown."""
        while self._line and self._inside < self.capacity:
            self._inside += 1
            self._line.popleft().set_result(None)

    def between(self, begin, end):
        """Return how many calls a second ended in some time, and how long they took on average."""
        found = [seconds for at, seconds in self.times if begin <= at < end]
        return len(found) / (end - begin), sum(found) / len(found)
