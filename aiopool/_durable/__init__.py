"""The jobs of a pool in its store: above the pool, which knows nothing of it but one seam (`_pool/durability.py`).

handlers   which functions there are, by their registered names
payloads   arguments and results as JSON, by the annotations of a function; errors as records
plans      what options mean for a row, and a row for the job that is run
flusher    many coroutines, one write
submissions, cancels   what goes into the store
handles, lookout       who waits for jobs, and how they hear of the ends
runs, attempts         what this process runs, and what becomes of it
claimer    asks for as many jobs as there are free slots
keeper     keeps the leases, in a thread
sweeper    does what has to be done now and then
client     the whole, as the pool knows it
"""
