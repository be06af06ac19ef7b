"""Who is told what happens. Nothing here changes what happens.

- `observers`: the one hub that the engine calls, while anybody observes
- `emitter`: events for listeners; `logs`: log lines; `metrics`: counts and times by job name; `health`: numbers judged
"""
