"""Fewer requests that still stand for all of them: duplicates put together, and a sample in which rare kinds stay."""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace

from migrate.parity.traffic.requests import Request


def distinct(requests: Iterable[Request]) -> list[Request]:
    """One request for each conversation, in the order in which they were first made; `count` adds up."""
    found: dict[bytes, Request] = {}
    for request in requests:
        key = request.key
        first = found.get(key)
        found[key] = request if first is None else replace(first, count=first.count + request.count)
    return list(found.values())


def stratum(request: Request) -> Hashable:
    """What makes a request rare or common: endpoint, tools, tool results, its own system prompt, number of turns,
    whether it begins the answer, `think`, and its length in steps of four."""
    length = int(math.log(max(request.characters, 1), 4))
    asked = request.conversation
    if asked is None:
        return request.endpoint, len(request.texts) > 1, length
    roles = {str(message.get("role")) for message in asked.messages}
    turns = sum(message.get("role") == "user" for message in asked.messages)
    return (
        request.endpoint,
        bool(asked.tools),
        "tool" in roles,
        "system" in roles,
        min(turns, 3),
        asked.is_prefill,
        str(asked.think),
        length,
    )


def sample(requests: Sequence[Request], size: int, *, seed: int) -> list[Request]:
    """`size` of the distinct `requests`, in their order; all of them where there are no more.

    Stratified: each stratum gets a place, the ones with most traffic first, and the places left go where the traffic is
    (Sainte-Laguë's rule). Within a stratum requests are drawn without replacement, in proportion to how often they were
    made (Efraimidis and Spirakis). What is drawn depends on `seed` and on the requests, not on their order.
    """
    if size >= len(requests):
        return list(requests)
    order = [_draw(request, seed) for request in requests]
    strata: dict[Hashable, list[int]] = {}
    for index in sorted(range(len(requests)), key=order.__getitem__):
        strata.setdefault(stratum(requests[index]), []).append(index)
    groups = list(strata.values())
    traffic = [sum(requests[index].count for index in members) for members in groups]
    # a tie between strata is settled by what is drawn first in them
    queue = [(-math.inf, -traffic[g], order[members[0]], g) for g, members in enumerate(groups)]
    heapq.heapify(queue)
    places = [0] * len(groups)
    for _ in range(size):
        *_, g = heapq.heappop(queue)
        places[g] += 1
        if places[g] < len(groups[g]):
            priority = -traffic[g] / (2 * places[g] + 1)
            heapq.heappush(queue, (priority, -traffic[g], order[groups[g][0]], g))
    chosen = sorted(index for members, count in zip(groups, places, strict=True) for index in members[:count])
    return [requests[index] for index in chosen]


def _draw(request: Request, seed: int) -> tuple[float, bytes]:
    """Smallest first: an exponential waiting time with the request's count as its rate."""
    digest = hashlib.sha256(f"{seed}|".encode() + request.key).digest()
    uniform = (int.from_bytes(digest[:7], "big") + 1) / (2**56 + 1)
    return -math.log(uniform) / request.count, digest
