"""A pool from a container of dishka: whoever asks for a `Pool` gets the open one; the container shuts it down."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from dishka import Provider, Scope, make_async_container

from aiopool import Pool

provider = Provider(scope=Scope.APP)


@provider.provide
async def open_pool() -> AsyncIterator[Pool]:
    async with Pool(size=4, shutdown_timeout=20) as pool:
        yield pool


@dataclass
class Mailer:
    pool: Pool

    async def subscribe(self, address: str) -> None:
        await self.pool.submit(self.send, address)

    async def send(self, address: str) -> None:
        await asyncio.sleep(0.05)  # the mail server
        print(f"sent to {address}")


provider.provide(Mailer)


async def main() -> None:
    container = make_async_container(provider)
    mailer = await container.get(Mailer)
    await mailer.subscribe("ada@example.org")
    await container.close()  # waits for the mail


if __name__ == "__main__":
    asyncio.run(main())
