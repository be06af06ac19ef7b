"""What users hold: the pool, its views, groups and maps.

- `pool`: opens and closes, wires the parts together; `state`: what a pool shares with its views
- `submitter`: the ways in; `map`, `group`: many jobs as one
- `shutdown`: ends the work within its time; `inspector`: statistics, metrics and health, read from any thread
"""
