"""The jobs of a pool in its store: above the pool, which knows nothing of it but one seam (`_pool/durability.py`).

handlers   which functions there are, by their registered names
payloads   arguments and results as JSON, by the annotations of a function; errors as records
flusher    many coroutines, one write
runs       the attempts of this process: leases, and what they become
claimer    asks for as many jobs as there are free slots
keeper     keeps the leases, in a thread
sweeper    does what has to be done now and then
client     the whole, as the pool knows it
fleet      what is asked of all pools that share the store
"""
