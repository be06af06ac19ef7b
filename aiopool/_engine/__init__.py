"""How jobs are queued and run. Read `queue`, `engine`, `worker`, `supervisor`, and you know the machine.

- `queue`: the order in which jobs start; `admission`: who may enter the queue; `groups`: paused and counted together
- `slots`: how many run, and who has lent a slot; `join_waiters`: who waits for the end of all work
- `engine`: decides what enters, starts, ends, is tried again; `error_reporter`: failures that nobody awaits
- `worker`, `scope_worker`: run jobs, each with its own containment; `supervisor`: keeps the workers alive
"""
