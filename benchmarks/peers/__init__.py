"""Programs that do the same work with other libraries, each with its default settings but for the concurrency.

Each runs in a virtual environment of its own, as a script, so that only what its library needs is there:

    with_saq.py install URL                      make tables, if there are any
    with_saq.py work URL NOTES CONCURRENCY       run jobs until it is killed
    with_saq.py submit URL NOTES JOB COUNT HOW   submit jobs: `many` (20 at once), or `slow` (one each 20 ms)

The jobs are `nap`, which takes a second, and `noop`. What they do is in `marks.py`: they note when they begin and end.
"""
