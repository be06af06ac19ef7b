"""A worker of an Avtomatika orchestrator whose handlers use clients that are opened before it runs.

    WORKER_TOKEN=secret DATABASE_URL=postgresql://... WEATHER_URL=https://... python examples/avtomatika_clients.py

It needs the extras `avtomatika` and `postgres`.
"""

import asyncio
import os

import aiohttp
import asyncpg

from aiopool.avtomatika import Worker

worker = Worker(worker_type="parser")


class ChannelParser:
    """Stands for a client library that has to be started in the event loop in which it is used."""

    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()

    async def messages(self, channel: str, limit: int) -> list[str]:
        assert self.loop is asyncio.get_running_loop()
        return [f"{channel} {n}" for n in range(limit)]


parser = ChannelParser()
database: asyncpg.Pool
http: aiohttp.ClientSession


@worker.task("parse_channel")
async def parse_channel(params: dict) -> dict:
    messages = await parser.messages(params["channel"], params.get("limit", 100))
    return {"status": "success", "data": {"messages": messages, "count": len(messages)}}


@worker.task("save_user")
async def save_user(params: dict) -> dict:
    async with database.acquire() as connection:
        user_id = await connection.fetchval(
            "INSERT INTO users (name, email) VALUES ($1, $2) RETURNING id",
            params["name"],
            params["email"],
        )
    return {"status": "success", "data": {"user_id": user_id}}


@worker.task("get_user")
async def get_user(params: dict) -> dict:
    async with database.acquire() as connection:
        user = await connection.fetchrow("SELECT * FROM users WHERE id = $1", params["user_id"])
    if user is None:
        return {"status": "failure", "error": {"code": "NOT_FOUND", "message": "no such user"}}
    return {"status": "success", "data": dict(user)}


@worker.task("fetch_weather")
async def fetch_weather(params: dict) -> dict:
    query = {"city": params["city"]}
    async with http.get(os.environ["WEATHER_URL"], params=query) as response:
        if response.status != 200:
            message = f"the weather service answers {response.status}"
            return {"status": "retry", "error": {"code": "API_ERROR", "message": message}}
        found = await response.json()
    return {"status": "success", "data": {"city": params["city"], "temperature": found["temp"]}}


async def main() -> None:
    global database, http
    await parser.start()
    async with (
        asyncpg.create_pool(os.environ["DATABASE_URL"]) as database,
        aiohttp.ClientSession() as http,
    ):
        await worker.main()


if __name__ == "__main__":
    asyncio.run(main())
