"""Who answers: conversations stay where they are, a higher weight only moves them to vLLM, shares are as asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.gateway.routing import Contexts, LastLine, Route, Router, RoutingPolicy, beginning, point
from migrate.gateway.state import Phase, State
from migrate.gateway.types import ApiError
from tests.ollama.replay import recordings

BOTH = Route(("bot",), "vllm-a", "ollama")
ALONE = Route(("lone",), "vllm-a")
SALT = "00112233445566778899aabbccddeeff"


def router(phase: Phase | None = None, weight: float = 0.0, **options: Any) -> Router:
    state = State(salt=SALT)
    if phase is not None:
        state = state.changed("bot", phase, weight=weight, fraction=options.pop("fraction", None))
    return Router([BOTH, ALONE], lambda: state, **options)


def chat(*turns: str, system: str | None = None) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return {"model": "bot", "messages": messages}


HELLO = chat("Hello")


@pytest.mark.parametrize(
    ("phase", "upstream", "shadow"),
    [(None, "source", False), ("source", "source", False), ("shadow", "source", True), ("target", "target", False)],
)
def test_phases(phase: Phase | None, upstream: str, shadow: bool) -> None:
    decision = router(phase).decide("bot", {}, HELLO)
    assert (decision.upstream, decision.shadow, decision.model) == (upstream, shadow, "bot:latest")


def test_without_an_ollama_vllm_answers_whatever_the_state_says() -> None:
    state = State(salt=SALT).changed("lone", "source")
    decision = Router([ALONE], lambda: state).decide("lone:latest", {}, HELLO)
    assert (decision.upstream, decision.shadow, decision.reason) == ("target", False, "it has no Ollama")


def test_a_model_nobody_configured_is_the_sources_business() -> None:
    decision = router("target").decide("stranger", {}, HELLO)
    assert (decision.upstream, decision.reason) == ("source", "not a model of the configuration")


def test_the_state_is_read_for_each_request() -> None:
    state = State(salt=SALT)
    routed = Router([BOTH], lambda: state)
    assert routed.decide("BOT", {}, HELLO).upstream == "source"
    state = state.changed("bot", "target")
    assert routed.decide("BOT", {}, HELLO).upstream == "target"


@pytest.mark.parametrize("phase", ["source", "shadow", "canary", "target"])
@pytest.mark.parametrize(
    ("asked", "upstream"),
    [("source", "source"), ("Target", "target"), (" ollama ", "source"), ("vllm-a", "target")],
)
def test_the_header_forces(phase: Phase, asked: str, upstream: str) -> None:
    decision = router(phase, 50).decide("bot", {"X-Migrate-Upstream": asked}, HELLO)
    assert (decision.upstream, decision.shadow, decision.reason) == (upstream, False, "asked for by header")


@pytest.mark.parametrize(
    ("model", "asked"), [("bot", "elsewhere"), ("lone", "source"), ("lone", "ollama"), ("bot", "")]
)
def test_a_header_that_names_no_upstream_is_refused(model: str, asked: str) -> None:
    with pytest.raises(ApiError) as caught:
        router("canary", 50).decide(model, {"X-Migrate-Upstream": asked}, HELLO)
    assert caught.value.status == 400


def test_the_configuration_may_forbid_the_header() -> None:
    policy = RoutingPolicy(forced=False)
    assert router("source", policy=policy).decide("bot", {"X-Migrate-Upstream": "target"}, HELLO).upstream == "source"


def test_a_canary_is_shadowed_only_when_asked_for() -> None:
    assert not router("canary", 50).decide("bot", {}, HELLO).shadow
    assert router("canary", 50, canary_shadow=True).decide("bot", {}, HELLO).shadow


def test_the_fraction_of_the_state_is_passed_on() -> None:
    assert router("shadow", fraction=0.25).decide("bot", {}, HELLO).fraction == 0.25


# ---- sticky, monotone, fair ------------------------------------------------------------------------------------------

text = st.text(max_size=40)
turns = st.lists(text, min_size=1, max_size=6)


@given(turns, text | st.none(), st.floats(0, 100), st.data())
def test_a_chat_stays_where_it_began(said: list[str], system: str | None, weight: float, data: st.DataObject) -> None:
    routed = router("canary", weight)
    first = routed.decide("bot", {}, chat(said[0], system=system))
    later = chat(*said[: data.draw(st.integers(1, len(said)))], system=system) | {
        "options": {"seed": 1},
        "stream": False,
    }
    assert routed.decide("bot:latest", {}, later).upstream == first.upstream


@given(turns, st.floats(0, 100), st.floats(0, 100))
def test_a_higher_weight_moves_conversations_to_vllm_only(said: list[str], one: float, other: float) -> None:
    low, high = sorted((one, other))
    if router("canary", low).decide("bot", {}, chat(*said)).upstream == "target":
        assert router("canary", high).decide("bot", {}, chat(*said)).upstream == "target"


@given(turns)
def test_the_ends_of_the_scale(said: list[str]) -> None:
    assert router("canary", 0).decide("bot", {}, chat(*said)).upstream == "source"
    assert router("canary", 100).decide("bot", {}, chat(*said)).upstream == "target"


@given(st.text(min_size=1, max_size=60), turns)
def test_a_clients_own_id_decides_alone(name: str, said: list[str]) -> None:
    routed = router("canary", 50)
    one = routed.decide("bot", {"X-Conversation-Id": name}, chat(*said))
    assert routed.decide("bot", {"X-Conversation-Id": name}, HELLO).point == one.point


@given(text, st.text(alphabet="0123456789abcdef", min_size=32, max_size=64).filter(lambda s: len(s) % 2 == 0))
def test_points_lie_in_the_scale(key: str, salt: str) -> None:
    assert 0 <= point(salt, b"", "bot", key) < 100


@pytest.mark.parametrize("weight", [1, 10, 50, 90])
def test_shares_are_what_was_asked(weight: float) -> None:
    routed = router("canary", weight)
    count = 20_000
    there = sum(routed.decide("bot", {}, chat(f"question {n}")).upstream == "target" for n in range(count))
    deviation = (count * weight / 100 * (1 - weight / 100)) ** 0.5
    assert abs(there - count * weight / 100) < 4 * deviation


def test_models_and_salts_are_spread_apart() -> None:
    points = {point(salt, b"", model, "hello") for salt in (SALT, SALT[::-1]) for model in ("a", "b")}
    assert len(points) == 4


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (chat("a", system="s"), chat("a", system="t")),
        (chat("a"), chat("b")),
        ({"prompt": "a"}, {"prompt": "b"}),
        ({"prompt": "a", "system": "x"}, {"prompt": "a", "system": "y"}),
        ({"input": "a"}, {"input": "b"}),
        ({"input": "a", "instructions": "x"}, {"input": "a", "instructions": "y"}),
        ({"messages": [{"role": "user", "content": "a"}], "system": "x"}, chat("a")),
        (
            {"messages": [{"role": "user", "content": "a", "images": ["x"]}]},
            {"messages": [{"role": "user", "content": "a", "images": ["y"]}]},
        ),
    ],
)
def test_other_beginnings_are_other_conversations(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert beginning(one) != beginning(other)


def test_long_texts_are_told_apart_by_their_ends() -> None:
    image = "a" * 1_000_000
    asked = {
        beginning({"messages": [{"role": "user", "content": "x", "images": [i]}]})
        for i in (image, image + "b", "b" + image[1:])
    }
    assert len(asked) == 3
    assert max(map(len, asked)) < 40_000


@pytest.mark.parametrize("body", [{}, {"messages": None}, {"messages": [1, None]}, {"messages": []}, {"prompt": 3.5}])
def test_odd_bodies_are_decided_too(body: dict[str, Any]) -> None:
    assert router("canary", 50).decide("bot", {}, body).upstream in ("source", "target")


# ---- /api/generate: a context continues a conversation ---------------------------------------------------------------


def test_a_recorded_context_brings_the_follow_up_to_the_same_side(shared: Path) -> None:
    """The recorded streams of a real Ollama: their last line carries the context."""
    rows = [
        row
        for row in recordings(shared / "ollama" / "recordings.jsonl")
        if row["request"]["path"] == "/api/generate" and '"context"' in row["response"]["body"]
    ]
    assert len(rows) >= 5
    routed = router("canary", 50)
    for row in rows:
        body = row["request"]["body"] | {"model": "bot"}
        first = routed.decide("bot", {}, body)
        assert first.remember
        last = row["response"]["body"].strip().splitlines()[-1]
        routed.remember_last(first, last.encode())
        context = json.loads(last)["context"]
        follow_up = routed.decide("bot", {}, {"prompt": "And then?", "context": context})
        assert (follow_up.point, follow_up.upstream) == (first.point, first.upstream)
        routed.remember(follow_up, [*context, 1, 2, 3])
        third = routed.decide("bot", {}, {"prompt": "And then?", "context": [*context, 1, 2, 3]})
        assert third.point == first.point


def test_contexts_that_were_not_seen_do_not_all_go_one_way() -> None:
    """They share a long beginning: the model's system prompt."""
    routed = router("canary", 50)
    system = list(range(500))
    sides = {routed.decide("bot", {}, {"prompt": "x", "context": [*system, n]}).upstream for n in range(64)}
    assert sides == {"source", "target"}
    first, again = (routed.decide("bot", {}, {"prompt": "x", "context": [*system, 7]}).point for _ in range(2))
    assert first == again


@pytest.mark.parametrize("context", [None, [], "text", ["a"], [None], [2**80], {"a": 1}, [1.5]])
def test_what_is_no_context_is_left_aside(context: Any) -> None:
    routed = router("canary", 50)
    decision = routed.decide("bot", {}, {"prompt": "x", "context": context})
    assert decision.point == routed.decide("bot", {}, {"prompt": "x"}).point
    routed.remember(decision, context)
    assert len(routed.contexts) == 0


@pytest.mark.parametrize("line", [b"", b'{"context": [1,', b'["context"]', b'{"done": true}', b'\xff"context"'])
def test_lines_without_a_context(line: bytes) -> None:
    routed = router("canary", 50)
    routed.remember_last(routed.decide("bot", {}, {"prompt": "x"}), line)
    assert len(routed.contexts) == 0


@given(st.lists(st.binary(max_size=6).map(lambda b: b.replace(b"\n", b"")), min_size=1, max_size=6), st.data())
def test_the_last_line_is_put_together_from_any_pieces(lines: list[bytes], data: st.DataObject) -> None:
    whole = b"\n".join(line + b"}" for line in lines) + data.draw(st.sampled_from([b"", b"\n"]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    kept = LastLine()
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        kept.piece(whole[start:end])
    assert kept.line == (lines[-1] + b"}").strip()


def test_a_last_line_without_an_end_is_let_go() -> None:
    kept = LastLine()
    for _ in range(20):
        kept.piece(b"x" * (1 << 20))
    assert len(kept.line) <= 8 << 20


def test_contexts_are_bounded_in_number_and_time() -> None:
    now = 0.0
    contexts = Contexts(limit=3, ttl_s=10, clock=lambda: now)
    for n in range(5):
        contexts.put(bytes([n]), n)
    assert len(contexts) == 3
    assert contexts.get(bytes([1])) is None
    assert contexts.get(bytes([4])) == 4
    now = 10.0
    assert contexts.get(bytes([4])) is None
    assert len(contexts) == 2


def test_outside_a_canary_nothing_is_remembered() -> None:
    routed = router("target")
    decision = routed.decide("bot", {}, {"prompt": "x"})
    assert not decision.remember
    routed.remember(decision, [1, 2])
    assert len(routed.contexts) == 0
