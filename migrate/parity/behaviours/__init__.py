"""What clients rely on beside the words: stops, limits, formats, tools, streams, seeds, many at once.

A probe asks both sides the same and judges each by its own greedy answer where it can, so that a model that words
something differently is not called broken. Answers that have to have a certain text are forced by a schema with one
allowed value, which works with any model.
"""

from migrate.parity.behaviours.check import PROBES, check

__all__ = ["PROBES", "check"]
