"""What a job is. Knows no pool.

- `status`: the state machine; `job`: the call and its handle; `waiters`: who waits for its end
- `options`: what users say; `spec`: the same, merged and laid out for the hot path
- `stop`: who asked a job to stop, and what its end means; `outcome`: the exceptions that awaiting it raises
- `retry`, `retry_budget`, `restart`: when there is another attempt, or another worker; `statistics`: counters
"""
