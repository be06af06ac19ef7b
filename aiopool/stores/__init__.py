"""Stores: where jobs survive the process that submitted them.

    Memory      the reference: nothing survives; for tests
    SQLite      one machine; nothing to install
    Postgres    a fleet of machines; the extra `postgres`
    Redis       the same on Redis or Valkey; the extra `redis`

`Pool(store="sqlite:///jobs.db", handlers=handlers)` opens one by its URL.
"""
