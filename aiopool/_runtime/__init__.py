"""The ground: the event loop, tasks, threads, timers and signals. Knows no job.

- `runtime`: the one object that gives the time, tasks, random numbers and ids to all others; `eager` starts a task at
  once
- `threads`: plain functions in threads, one of the `runners`; `timers`: one timer of the loop for many moments
- `signals`: SIGINT and SIGTERM, and the pools that are open; `loop_lag`: how late the event loop is
- `faults`: any exception described and logged safely; `validation`: numbers that users give
"""
