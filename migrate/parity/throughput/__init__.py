"""How fast are both servers at the same work? Load generators of others, our workload, comparison and statistics."""

from migrate.parity.throughput.measure import measure
from migrate.parity.throughput.plan import Plan, Slo

__all__ = ["Plan", "Slo", "measure"]
