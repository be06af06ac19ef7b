"""Sizes that change by themselves, for `Pool(size=…)` and `pool.resize(…)`.

from aiopool.sizing import Adaptive, Autoscale

Pool(size=Autoscale(2, 50))  # as many as the load needs
Pool(size=Adaptive(1, 200))  # as many as the other side can bear
"""

from aiopool._jobs.adaptive import Adaptive
from aiopool._jobs.autoscale import Autoscale
from aiopool._jobs.size_rule import SizeRule
from aiopool._runtime.public import publish

__all__ = ["Adaptive", "Autoscale", "SizeRule"]

publish(globals())
