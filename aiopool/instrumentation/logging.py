"""Logs that know the job: `configure_logging`, and its parts for a configuration of your own.

- `configure_logging`: switch on, in one call. `reset_logging` undoes it.
- `add_job_fields`: a structlog processor. `JobFieldsFilter`: a filter for handlers of `logging`. `job_fields`: a dict.
"""

from aiopool._observe.logs import JobFieldsFilter, add_job_fields, configure_logging, job_fields, reset_logging
from aiopool._runtime.public import publish

__all__ = ["JobFieldsFilter", "add_job_fields", "configure_logging", "job_fields", "reset_logging"]

publish(globals())
