"""What a fleet will do, before there is one: the real claimer, flusher and sweeper in virtual time, against a model of
the engine. `aiopool plan` is the command for it.

costs         what each verb takes on an engine, measured, and what a job takes on a host
engine_model  a store that does what every store does, and takes as long as a real one
load          when jobs come, and how long they run
simulate      a fleet of hosts, for some virtual seconds, and what it did
sweep         the same for more and more hosts: what saturates first, and where
"""
