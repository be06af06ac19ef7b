"""A supervised pool of coroutine workers for asyncio."""
