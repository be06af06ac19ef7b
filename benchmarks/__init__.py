"""What a job costs, measured: one command, one run, everything interleaved.

    python -m benchmarks --targets            # what the pages of the docs show, and a verdict on each target
    python -m benchmarks                      # every table
    python -m benchmarks --quick              # a smoke of some seconds, for CI; its numbers mean nothing

How it measures, and why:

- **CPU time of the process, not wall time.** Overhead is what the pool adds, and wall time on a shared
  machine says more about the neighbours than about the code.
- **A fresh process for every measurement.** Garbage collection is a third of the cost at 100,000 live
  handles, and what a collection costs depends on everything that lived in the process before. A fresh
  child gives each contender the same empty heap, the same memory arenas and the same counters;
  `gc.collect()` between two contenders in one process does not (the arenas stay). The child warms up
  with a small run of the same work, collects, and only then starts the clock.
- **Interleaved rounds.** A round runs every contender of every cell once; each round starts at another
  contender. What the machine does meanwhile hits all of them.
- **Medians of ratios within a round**, printed with their minimum and maximum. Absolute microseconds move
  by ±40 % with noise; never compare them between two runs.
- **The garbage collector stays on, debug mode off, everything at its defaults.** That is how it is used.

Each contender does the same work, keeps all its handles until the end, and returns every result; the
results are checked. Where a library offers several ways, its fastest one is written here.

Layout: `workloads` (what a job does), `contenders` with `requests`, `steady`, `threads` and `callers` (how each library
runs it), `servers` (what the requests talk to), `probes` (what is not a ratio of CPU time: memory, latency, gaps)
with `prices` (what an option adds), `watching` (what events, metrics, logs and traces add) and `workers` (what a
resource of the worker, counts and a watchdog add), `child` (one
measurement in its own process), `measure` (rounds and medians), `scenarios` (which probes, for whom), `plan`
(which cells), `targets` (the promises), `report` and `chart` (tables, JSON, SVG), `page` (the same into the
documentation).
"""
