"""A whole program around pools.

- `run`: `aiopool.run`: starts the loop, drains on SIGTERM, gives the exit code
- `service_sequence`: services start before the jobs, and stop after them; `systemd`: what systemd is told
"""
