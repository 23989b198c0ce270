"""Which upstream answers a request: a pure function of the state, the request's headers and its beginning.

In a canary every conversation has a point in [0, 100), and is vLLM's when the point lies below the weight: it stays
where it is while the weight stays, and raising the weight moves conversations to vLLM only. The point comes from the
client's own id of the conversation, or from how the conversation begins: a chat sends its beginning again with every
turn. /api/generate does not; it sends the `context` (token ids) of the answer before, which is looked up among the
contexts that went through here. A key or an address of a client is not used: several conversations would share it.
"""

from __future__ import annotations

import hmac
import json
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from migrate.gateway.state import Change, Phase, State, canonical
from migrate.gateway.types import ApiError

Side = Literal["source", "target"]

MAX_HEADER = 512
ENDS = 8192
MAX_LINE_BYTES = 8 << 20
CONTEXTS = 50_000
CONTEXT_TTL_S = 3600.0


class RoutingPolicy(BaseModel):
    """`routing:` of the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    conversation_header: str = Field(
        default="X-Conversation-Id", description="header with a client's id of a conversation"
    )
    upstream_header: str = Field(
        default="X-Migrate-Upstream", description="header that names the upstream: source, target"
    )
    forced: bool = Field(default=True, description="whether clients may choose the upstream by that header")


@dataclass(frozen=True, slots=True)
class Route:
    """A model: the names clients call it by, and the names of its upstreams. `source` None: there is no Ollama."""

    names: tuple[str, ...]
    target: str
    source: str | None = None

    @property
    def name(self) -> str:
        """How state, metrics and journal call it: by the first of its names."""
        return canonical(self.names[0])

    def state(self, state: State) -> Change | None:
        """What was decided, None when nothing was."""
        return state.of(self.name)

    def phase(self, state: State) -> Phase:
        """The first phase is Ollama's where there is one."""
        if self.source is None:
            return "target"
        found = self.state(state)
        return found.phase if found is not None else "source"


@dataclass(frozen=True, slots=True)
class Decision:
    """`shadow`: the answered request may also be sent to the other side, `fraction` of them where the state says how
    many. `point`: where the conversation lies in [0, 100), in a canary. `remember`: the answer's `context` should be
    told to `Router.remember`."""

    upstream: Side
    shadow: bool
    reason: str
    model: str = ""
    phase: Phase = "target"
    point: float | None = None
    fraction: float | None = None
    remember: bool = False


@dataclass(slots=True)
class LastLine:
    """The last line of an answer that comes in pieces: a context of thousands of tokens is cut anywhere on its way."""

    _tail: bytearray = field(default_factory=bytearray)

    def piece(self, data: bytes) -> None:
        text = data.rstrip(b"\n")
        if not text:
            self._tail += data[:1]
            return
        end = text.rfind(b"\n")
        if end >= 0 or self._tail.endswith(b"\n"):
            self._tail.clear()
        self._tail += data[end + 1 :]
        if len(self._tail) > MAX_LINE_BYTES:
            self._tail.clear()

    @property
    def line(self) -> bytes:
        return bytes(self._tail).strip()


@dataclass(slots=True)
class Contexts:
    """Contexts of /api/generate answers -> the point of their conversation. Bounded in number and time."""

    limit: int = CONTEXTS
    ttl_s: float = CONTEXT_TTL_S
    clock: Callable[[], float] = time.monotonic
    _points: OrderedDict[bytes, tuple[float, float]] = field(default_factory=OrderedDict)

    def put(self, key: bytes, point: float) -> None:
        self._points.pop(key, None)
        self._points[key] = (point, self.clock() + self.ttl_s)
        while len(self._points) > self.limit:
            self._points.popitem(last=False)

    def get(self, key: bytes) -> float | None:
        """The point; a context that was asked for is not kept longer for it: its answer has a context of its own."""
        found = self._points.get(key)
        if found is None:
            return None
        point, ends = found
        if self.clock() >= ends:
            del self._points[key]
            return None
        return point

    def __len__(self) -> int:
        return len(self._points)


class Router:
    """`states` gives the present state (`LiveState.current`). `names` are the configuration's names of upstreams."""

    def __init__(
        self,
        routes: Iterable[Route],
        states: Callable[[], State],
        *,
        policy: RoutingPolicy | None = None,
        canary_shadow: bool = False,
        contexts: Contexts | None = None,
    ) -> None:
        """`canary_shadow`: in a canary, too, answered requests may be sent to the other side."""
        self.policy = policy or RoutingPolicy()
        self.contexts = contexts if contexts is not None else Contexts()
        self._states = states
        self._canary_shadow = canary_shadow
        self._routes: dict[str, Route] = {}
        for route in routes:
            for name in route.names:
                self._routes.setdefault(canonical(name), route)

    @property
    def routes(self) -> tuple[Route, ...]:
        return tuple(dict.fromkeys(self._routes.values()))

    def route(self, model: str) -> Route | None:
        """None for a model the configuration does not have."""
        return self._routes.get(canonical(model))

    def decide(self, model: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Decision:
        """`headers` are looked up by the policy's names, so they have to ignore case (starlette's do); `body` is the
        decoded request. A model the configuration does not have is the source's business.

        Raises ApiError 400 for a header that names no upstream of the model.
        """
        route = self.route(model)
        if route is None:
            return Decision("source", False, "not a model of the configuration", canonical(model), "source")
        state = self._states()
        phase, change = route.phase(state), route.state(state)
        forced = self._forced(route, headers.get(self.policy.upstream_header))
        both = route.source is not None
        if forced is not None:
            return Decision(forced, False, "asked for by header", route.name, phase)
        if not both:
            return Decision("target", False, "it has no Ollama", route.name, phase)
        fraction = change.fraction if change is not None else None
        if phase != "canary" or change is None:
            side: Side = "target" if phase == "target" else "source"
            return Decision(side, phase == "shadow", f"phase {phase}", route.name, phase, fraction=fraction)
        point = self._point(route, state, headers.get(self.policy.conversation_header), body)
        side = "target" if point < change.weight else "source"
        return Decision(
            side,
            self._canary_shadow,
            f"canary {change.weight:g} %",
            route.name,
            phase,
            point,
            fraction,
            remember=_is_generate(body),
        )

    def _forced(self, route: Route, asked: str | None) -> Side | None:
        if asked is None or not self.policy.forced:
            return None
        wanted = asked.strip()
        if wanted.lower() == "target" or wanted == route.target:
            return "target"
        if route.source is not None and (wanted.lower() == "source" or wanted == route.source):
            return "source"
        raise ApiError(400, f"{self.policy.upstream_header}: {wanted[:80]!r} is no upstream of this model")

    def _point(self, route: Route, state: State, conversation: str | None, body: Mapping[str, Any]) -> float:
        if conversation:
            return point(state.salt, b"id\0", route.name, conversation[:MAX_HEADER])
        key = _context_key(route.name, body.get("context"))
        if key is not None:
            known = self.contexts.get(key)
            # not seen here (a restart, another worker): the whole context, since its first tokens are the system
            # prompt that all conversations of the model share
            return known if known is not None else point(state.salt, b"context\0", route.name, key.hex())
        return point(state.salt, b"beginning\0", route.name, beginning(body))

    def remember(self, decision: Decision, context: Any) -> None:
        """What an answer of /api/generate came with; a follow-up that brings it goes where the answer came from."""
        key = _context_key(decision.model, context)
        if decision.point is not None and key is not None:
            self.contexts.put(key, decision.point)

    def remember_last(self, decision: Decision, line: bytes) -> None:
        """The same from the last line (or the whole) of an answer as it went over the wire."""
        if decision.point is None or b'"context"' not in line:
            return
        try:
            part = json.loads(line)
        except (ValueError, RecursionError):
            return
        if isinstance(part, dict):
            self.remember(decision, part.get("context"))


def point(salt: str, kind: bytes, model: str, key: str) -> float:
    """A place in [0, 100) that only depends on the arguments: HMAC-SHA-256, its first 53 bits."""
    text = f"{model}\0{key}".encode("utf-8", "surrogatepass")
    digest = hmac.digest(bytes.fromhex(salt), kind + text, sha256)
    return (int.from_bytes(digest[:7], "big") >> 3) / 2**53 * 100.0


def _is_generate(body: Mapping[str, Any]) -> bool:
    return "prompt" in body and "messages" not in body and not body.get("raw")


def _context_key(model: str, context: Any) -> bytes | None:
    """A digest of token ids; None for anything else."""
    if not isinstance(context, list | tuple) or not context:
        return None
    try:
        ids = array("q", context)
    except (TypeError, OverflowError):
        return None
    return sha256(model.encode() + b"\0" + ids.tobytes()).digest()


def beginning(body: Mapping[str, Any]) -> str:
    """What a conversation keeps sending from its first turn on: the first system and the first user message of a chat
    (Ollama's, OpenAI's, Anthropic's), `system` and prompt of a generation, the input of anything else."""
    messages = body.get("messages")
    if isinstance(messages, list):
        rows = [m for m in messages if isinstance(m, dict)]
        first = [next((m for m in rows if m.get("role") in roles), None) for roles in _FIRST]
        kept = [[m.get("role"), m.get("content"), m.get("images")] for m in first if m is not None]
        return _text([body.get("system"), kept or rows[:1]])
    if "input" in body:
        inputs = body["input"]
        return _text([body.get("instructions"), inputs[:1] if isinstance(inputs, list) else inputs])
    return _text([body.get("system"), body.get("prompt"), body.get("images")])


_FIRST: Sequence[tuple[str, ...]] = (("system", "developer"), ("user",))


def _text(value: Any) -> str:
    return json.dumps(_short(value), sort_keys=True, ensure_ascii=False, default=str)


def _short(value: Any) -> Any:
    """Both ends and the length stand for a long text: an image of 20 MB is not worth 50 ms of everybody's time."""
    if isinstance(value, str) and len(value) > 2 * ENDS:
        return [len(value), value[:ENDS], value[-ENDS:]]
    if isinstance(value, list):
        return [_short(item) for item in value]
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    return value
