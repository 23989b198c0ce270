"""Shadowing between two real servers that replay a real Ollama's recordings; a test may change the target's.

The client's side is the first server's answer, read over HTTP piece by piece, as the gateway has it.
"""

from __future__ import annotations

import asyncio
import json
import stat
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.gateway.routing import Decision
from migrate.gateway.shadow import Ask, Shadow, ShadowPolicy, http_side, is_comparable
from migrate.gateway.shadow_answer import AnswerSummary, summary
from migrate.gateway.shadow_compare import Pair, compare, cosine, first_difference, is_greedy
from migrate.gateway.shadow_journal import Journal, journal_files, journal_path, read_journal
from migrate.parity.traffic.read import read_requests
from migrate.parity.traffic.redact import Redactor
from tests.ollama.replay import recordings, replay, serving

RUNS_A_MODEL = ("/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/v1/chat/completions", "/v1/messages",
                "/v1/completions", "/v1/embeddings", "/v1/responses")  # fmt: skip

Row = dict[str, Any]
SHADOWED = Decision("source", True, "phase shadow", "support-bot:latest", "shadow")


@pytest.fixture(scope="session")
def rows(shared: Path) -> list[Row]:
    """Requests that run a model; of equal ones the last, as the replaying server answers."""
    found = [*recordings(shared / "ollama" / "recordings.jsonl"),
             *recordings(shared / "ollama" / "modern" / "recordings.jsonl")]  # fmt: skip
    kept = {json.dumps(r["request"], sort_keys=True): r for r in found if r["request"]["path"] in RUNS_A_MODEL}
    return [r for r in kept.values() if isinstance(r["request"]["body"], dict)]


def named(rows: list[Row], *starts: str) -> list[Row]:
    return [r for r in rows if r["name"].startswith(starts)]


@dataclass
class Bench:
    """What came of requests that a client made while everything was shadowed."""

    shadow: Shadow
    pairs: list[tuple[str, Pair]] = field(default_factory=list)
    drops: list[tuple[str, str]] = field(default_factory=list)
    offered: list[bool] = field(default_factory=list)


def drive(
    rows: list[Row],
    source: str,
    target: str | Ask,
    policy: ShadowPolicy | None = None,
    *,
    journal: Journal | None = None,
    decision: Decision = SHADOWED,
    one_by_one: bool = True,
    **options: Any,
) -> Bench:
    """A client asks the source for every row, and what is answered is offered."""

    async def all_of_it() -> Bench:
        async with httpx.AsyncClient(trust_env=False) as client:
            other = http_side(client, target) if isinstance(target, str) else target
            bench = Bench(None)  # type: ignore[arg-type]
            bench.shadow = Shadow(
                policy or ShadowPolicy(max_concurrent=8),
                {"target": other, "source": http_side(client, source)},
                journal,
                on_pair=lambda model, pair: bench.pairs.append((model, pair)),
                on_drop=lambda model, reason: bench.drops.append((model, reason)),
                **options,
            )
            for row in rows:
                path, body = row["request"]["path"], row["request"]["body"]
                data = json.dumps(body).encode()
                taken = bench.shadow.take(decision, path, data, body)
                answered_by = source if decision.upstream == "source" else str(target)
                async with client.stream("POST", answered_by + path, content=data) as reply:
                    async for piece in reply.aiter_bytes():
                        if taken is not None:
                            taken.piece(piece)
                if taken is not None:
                    bench.offered.append(bench.shadow.offer(taken, reply.status_code))
                if one_by_one:
                    await bench.shadow.drain()
            await bench.shadow.drain()
            await bench.shadow.close()
            return bench

    return asyncio.run(all_of_it())


# ---- pairs -----------------------------------------------------------------------------------------------------------


def test_an_ollama_compared_with_itself_is_the_same_in_everything(rows: list[Row]) -> None:
    """Every recorded request: chats, streams, tools, formats, OpenAI's and Anthropic's routes, embeddings, errors."""
    with replay(rows) as source, replay(rows) as target:
        bench = drive(rows, source, target)
    comparable = [r for r in rows if is_comparable(r["request"]["path"], r["request"]["body"])]
    assert len(bench.pairs) == len(comparable) > 100
    assert bench.drops == []
    for (_, pair), row in zip(bench.pairs, comparable, strict=True):
        assert pair.differences == (), row["name"]
        if row["response"]["status"] in (200, 400, 404):
            assert pair.status, row["name"]
    checked = {check: sum(getattr(p, check) is True for _, p in bench.pairs) for check in Pair.model_fields}
    assert checked["text"] > 40
    assert checked["prompt"] > 80
    assert checked["embeddings"] >= 5
    assert checked["json_valid"] >= 1


def edited(rows: list[Row], edit: Callable[[str], str]) -> list[Row]:
    made = [r | {"response": r["response"] | {"body": edit(r["response"]["body"])}} for r in rows]
    assert [m["response"] for m in made] != [r["response"] for r in rows]
    return made


def counts_one_more(body: str) -> str:
    lines = [json.loads(line) for line in body.splitlines() if line]
    lines[-1]["prompt_eval_count"] += 1
    return "\n".join(map(json.dumps, lines)) + "\n"


def ends_by_length(body: str) -> str:
    return body.replace('"done_reason":"stop"', '"done_reason":"length"')


def other_words(body: str) -> str:
    return body.replace('"content":"Once"', '"content":"Twice"').replace('"response":"Once"', '"response":"Twice"')


def one_word_later(body: str) -> str:
    return body.replace('"content":"."},"done":false', '"content":"!"},"done":false')


def breaks_off(body: str) -> str:
    return (
        body[: len(body) // 2].rpartition("\n")[0] + '\n{"error":"an error was encountered while running the model"}\n'
    )


@pytest.mark.parametrize(
    ("edit", "differences"),
    [
        (counts_one_more, ("prompt",)),
        (ends_by_length, ("end",)),
        (other_words, ("beginning", "text")),
        (one_word_later, ("text",)),
        (breaks_off, ("status",)),
    ],
)
def test_differences_are_found(rows: list[Row], edit: Callable[[str], str], differences: tuple[str, ...]) -> None:
    asked = named(rows, "chat-stream/support-bot")
    assert asked
    with replay(asked) as source, replay(edited(asked, edit)) as target:
        bench = drive(asked, source, target)
    (_, pair), *_ = bench.pairs
    assert pair.differences == differences
    if "beginning" in differences:
        assert pair.at == 0
    if differences == ("text",):
        assert pair.at is not None
        assert pair.at > 16


def test_times_of_both_sides_are_told(rows: list[Row]) -> None:
    asked = named(rows, "chat-stream/support-bot", "generate/support-bot")
    with replay(asked) as source, replay(asked) as target:
        pairs = [pair for _, pair in drive(asked, source, target).pairs]
    for pair, row in zip(pairs, asked, strict=True):
        for side in (pair.source, pair.target):
            assert 0 < side.total < 30
            assert (side.ttft is not None) is row["request"]["body"].get("stream", True)
            assert side.tokens
            assert side.prompt_tokens


def test_a_server_that_is_not_there_is_an_answer_that_broke_off(rows: list[Row]) -> None:
    asked = named(rows, "chat-stream/support-bot")
    with replay(asked) as source:
        bench = drive(asked, source, "http://127.0.0.1:9")
    (_, pair), *_ = bench.pairs
    assert (pair.differences, pair.target.status) == (("status",), None)


def test_in_a_canary_vllms_answer_is_compared_with_ollamas(rows: list[Row]) -> None:
    asked = named(rows, "chat-stream/support-bot")
    decision = Decision("target", True, "canary 50 %", "support-bot:latest", "canary", 1.0)
    with replay(asked) as source, replay(edited(asked, counts_one_more)) as target:
        bench = drive(asked, source, target, decision=decision)
    (_, pair), *_ = bench.pairs
    assert pair.answered_by == "target"
    assert pair.target.prompt_tokens == (pair.source.prompt_tokens or 0) + 1


# ---- which requests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "whether"),
    [
        ("/api/chat", {"messages": [{"role": "user", "content": "x"}]}, True),
        ("/api/chat", {"messages": []}, False),
        ("/api/chat", {}, False),
        ("/api/chat", {"messages": [{}], "keep_alive": 0}, False),
        ("/api/chat", {"messages": [{}], "keep_alive": "0s"}, False),
        ("/api/chat", {"messages": [{}], "keep_alive": "0"}, False),
        ("/api/chat", {"messages": [{}], "keep_alive": "10m"}, True),
        ("/api/chat", {"messages": [{}], "keep_alive": -1}, True),
        ("/api/chat", {"messages": [{}], "keep_alive": "1h0m"}, True),
        ("/api/chat", {"messages": [{}], "_debug_render_only": True}, False),
        ("/api/generate", {"prompt": "x"}, True),
        ("/api/generate", {"prompt": ""}, False),
        ("/api/embed", {"input": ["a"]}, True),
        ("/api/tags", {"prompt": "x"}, False),
        ("/api/pull", {"prompt": "x"}, False),
    ],
)
def test_only_requests_that_run_the_model_and_leave_nothing(path: str, body: Row, whether: bool) -> None:
    assert is_comparable(path, body) is whether


def quiet(policy: ShadowPolicy, **options: Any) -> Shadow:
    return Shadow(policy, {}, None, **options)


BODY: Row = {"messages": [{"role": "user", "content": "x"}]}


def test_the_fraction_is_kept() -> None:
    draws = iter([n / 1000 for n in range(1000)] * 2)
    shadow = quiet(ShadowPolicy(fraction=0.1), draw=lambda: next(draws))
    taken = [shadow.take(SHADOWED, "/api/chat", b"{}", BODY) for _ in range(1000)]
    assert sum(t is not None for t in taken) == 100
    operators = Decision("source", True, "phase shadow", "bot", "shadow", fraction=0.5)
    taken = [shadow.take(operators, "/api/chat", b"{}", BODY) for _ in range(1000)]
    assert sum(t is not None for t in taken) == 500
    assert not shadow.dropped


def test_what_the_router_does_not_shadow_is_not_taken() -> None:
    shadow = quiet(ShadowPolicy())
    assert shadow.take(Decision("source", False, ""), "/api/chat", b"{}", BODY) is None


def test_too_large_a_request_or_answer_is_dropped(rows: list[Row]) -> None:
    asked = named(rows, "chat-stream/support-bot")
    with replay(asked) as source, replay(asked) as target:
        small = drive(asked, source, target, ShadowPolicy(max_answer_bytes=100))
        tiny = drive(asked, source, target, ShadowPolicy(max_request_bytes=10))
    assert {reason for _, reason in small.drops} == {"the answer is too large"}
    assert {reason for _, reason in tiny.drops} == {"the request is too large"}
    assert small.pairs == tiny.pairs == []


def test_too_large_an_answer_of_the_other_side_is_dropped(rows: list[Row]) -> None:
    asked = named(rows, "chat-stream/support-bot")[:1]
    size = len(asked[0]["response"]["body"])
    with replay(asked) as source, replay(edited(asked, lambda body: body + " " * 1000)) as target:
        bench = drive(asked, source, target, ShadowPolicy(max_answer_bytes=size))
    assert bench.drops == [("support-bot:latest", "the answer is too large")]


def test_the_hour_has_a_limit_and_passes(rows: list[Row]) -> None:
    asked = named(rows, "chat/support-bot")[:1] * 12
    now = [0.0]

    def clock() -> float:
        now[0] += 600.0  # six requests an hour
        return now[0]

    with replay(asked) as source, replay(asked) as target:
        bench = drive(asked, source, target, ShadowPolicy(max_per_hour=3), clock=clock)
    assert bench.offered == [True] * 3 + [False] * 3 + [True] * 3 + [False] * 3
    assert bench.drops == [("support-bot:latest", "too many in an hour")] * 6


def test_workers_share_the_budget(rows: list[Row]) -> None:
    asked = named(rows, "chat/support-bot")[:1] * 4
    with replay(asked) as source, replay(asked) as target:
        bench = drive(asked, source, target, ShadowPolicy(max_per_hour=4), workers=2)
    assert bench.offered == [True, True, False, False]


class Slow(BaseHTTPRequestHandler):
    """Answers nothing for a second."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        time.sleep(1.0)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_slow_other_side_holds_no_client_up(rows: list[Row]) -> None:
    asked = named(rows, "chat/support-bot")[:1] * 20
    with replay(asked) as source, serving(Slow) as target:
        began = time.monotonic()

        async def clients() -> tuple[float, Shadow]:
            async with httpx.AsyncClient(trust_env=False) as client:
                shadow = Shadow(ShadowPolicy(max_concurrent=2), {"target": http_side(client, target)}, None)
                for row in asked:
                    body = row["request"]["body"]
                    taken = shadow.take(SHADOWED, "/api/chat", b"{}", body)
                    assert taken is not None
                    reply = await client.post(source + "/api/chat", json=body)
                    taken.piece(reply.content)
                    shadow.offer(taken, reply.status_code)
                answered = time.monotonic() - began
                await shadow.drain()
                await shadow.close()
                return answered, shadow

        answered, shadow = asyncio.run(clients())
    assert answered < 1.0
    assert shadow.dropped == {"too many at a time": 18}


def test_a_copy_that_takes_too_long_is_let_go(rows: list[Row]) -> None:
    asked = named(rows, "chat/support-bot")[:1]
    with replay(asked) as source, serving(Slow) as target:
        bench = drive(asked, source, target, ShadowPolicy(timeout=0.1))
    (_, pair), *_ = bench.pairs
    assert pair.target.status is None
    assert pair.target.total < 0.9


@asynccontextmanager
async def _explodes(path: str, body: bytes) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
    raise RuntimeError("a mistake in the translation")
    yield


def test_nothing_that_goes_wrong_reaches_the_client(rows: list[Row], tmp_path: Path) -> None:
    asked = named(rows, "chat/support-bot")[:2]
    with replay(asked) as source:
        bench = drive(asked, source, _explodes)
        assert [pair.target.status for _, pair in bench.pairs] == [None, None]
        unwritable = Journal(tmp_path / "no" / "such" / "place.jsonl", max_bytes=1 << 20)
        bench = drive(asked, source, source, journal=unwritable)
    assert bench.offered == [True, True]
    assert {reason for _, reason in bench.drops} == {"it could not be compared or written"}
    assert quiet(ShadowPolicy()).offer(None, 200) is False  # type: ignore[arg-type]


# ---- the journal -----------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = journal_path(tmp_path / "gateway-state.json")
    assert found.name == "gateway-state.shadow.jsonl"
    return found


def test_the_journal_holds_no_text(rows: list[Row], path: Path) -> None:
    asked = named(rows, "chat-stream/support-bot", "generate/support-bot")
    with replay(asked) as source, replay(edited(asked, other_words)) as target:
        drive(asked, source, target, journal=Journal(path, max_bytes=1 << 20))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    for row in asked:
        body = row["request"]["body"]
        said = [m["content"] for m in body.get("messages", ())] + [body.get("prompt", "")]
        assert not any(words in text for words in said if words)
    assert not any(word in text for word in ("Once", "Twice", "capital"))
    found = list(read_journal(path, "support-bot:latest"))
    assert len(found) == len(asked)
    assert [row.path for row in found] == [row["request"]["path"] for row in asked]
    assert found[0].body is None
    assert list(read_journal(path, "another")) == []


def test_requests_that_are_kept_are_parity_requests(rows: list[Row], path: Path) -> None:
    asked = [r for r in named(rows, "chat/support-bot") if r["response"]["status"] == 200]
    with replay(asked) as source, replay(asked) as target:
        drive(asked, source, target, ShadowPolicy(keep_text=True), journal=Journal(path, max_bytes=1 << 20))
    batch = read_requests(path, model="support-bot")
    assert batch.traffic.read == len(asked)
    assert batch.traffic.unusable == 0
    assert all(list(c.messages) in [r["request"]["body"]["messages"] for r in asked] for c in batch.conversations)
    assert batch.traffic.used + batch.traffic.duplicates == len(asked)


def test_kept_requests_are_redacted(path: Path) -> None:
    journal = Journal(path, max_bytes=1 << 20, redactor=Redactor(b"salt"))
    body = {"messages": [{"role": "user", "content": "Write to jane.roe@corp.example.com, please"}], "model": "bot"}
    journal.append("bot:latest", "/api/chat", PAIR, body=body, started=time.time())
    (row,) = read_journal(path)
    assert row.body is not None
    assert row.body["model"] == "bot"
    content = row.body["messages"][0]["content"]
    assert "jane.roe" not in path.read_text()
    assert content.startswith("Write to ")
    assert content.endswith(".example, please")


ANSWER = AnswerSummary(200, 10, 5, "stop", "hello")
PAIR = compare({"temperature": 0}, ANSWER, ANSWER, answered_by="source")


def test_the_journal_is_bounded_and_rotates(path: Path) -> None:
    journal = Journal(path, max_bytes=40_000, files=4)
    for number in range(500):
        journal.append("bot:latest", f"/{number}", PAIR, started=number)
        files = journal_files(path)
        assert sum(file.stat().st_size for file in files) <= 40_000
    assert len(files) == 4
    kept = [int(row.path[1:]) for row in read_journal(path)]
    assert kept == list(range(kept[0], 500))
    assert len(kept) > 80


def test_half_a_line_is_no_pair(path: Path) -> None:
    journal = Journal(path, max_bytes=1 << 20)
    for number in range(3):
        journal.append("bot:latest", f"/{number}", PAIR, started=number)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:40] + b"\n[]\n{}\nnull\n" + lines[2])
    assert [row.path for row in read_journal(path)] == ["/0", "/2"]


# ---- reading and comparing -------------------------------------------------------------------------------------------


@given(st.sampled_from(RUNS_A_MODEL), st.binary(max_size=300))
def test_any_bytes_are_read(path: str, content: bytes) -> None:
    found = summary(path, 200, content)
    assert found.status in (200, None)


_KEYS = ["message", "content", "choices", "delta", "usage", "type", "index", "tool_calls", "function", "arguments"]
_KEYS += ["data", "embedding", "embeddings", "response", "output", "content_block", "summary", "name", "text"]
_TYPES = ["message", "message_start", "content_block_start", "content_block_delta", "message_delta", "error"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.sampled_from(RUNS_A_MODEL),
    st.lists(st.dictionaries(st.sampled_from(_KEYS), json_values), max_size=4),
    st.none() | st.sampled_from(_TYPES),
)
def test_any_objects_are_read(path: str, parts: list[Row], kind: str | None) -> None:
    if kind is not None:
        parts = [part | {"type": kind} for part in parts]
    content = "\n".join(json.dumps(part) for part in parts).encode()
    first = summary(path, 200, content)
    pair = compare({"temperature": 0}, first, first, answered_by="source")
    assert pair.differences == ()


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        (
            "/v1/chat/completions",
            'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
            'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"get_weather",'
            '"arguments":"{\\"city\\""}}]}}]}\n\n'
            'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":": \\"Rome\\"}"}}]}}]}\n\n'
            'data: {"choices":[{"delta":{},"finish_reason":"tool_calls"}]}\n\n'
            'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\ndata: [DONE]\n\n',
            AnswerSummary(200, 7, 3, "tool_calls", calls=(("get_weather", '{"city": "Rome"}'),)),
        ),
        (
            "/api/chat",
            '{"message":{"role":"assistant","content":"","tool_calls":[{"function":{"name":"get_weather","arguments":'
            '{"unit":"C","city":"Rome"}}}]},"done":true,"done_reason":"stop","prompt_eval_count":7,"eval_count":3}',
            AnswerSummary(200, 7, 3, "stop", calls=(("get_weather", '{"city": "Rome", "unit": "C"}'),)),
        ),
        (
            "/v1/messages",
            'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":7}}}\n\n'
            'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text",'
            '"text":""}}\n\nevent: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":'
            '"text_delta","text":"Hi"}}\n\nevent: content_block_start\ndata: {"type":"content_block_start","index":1,'
            '"content_block":{"type":"tool_use","id":"x","name":"f","input":{}}}\n\nevent: content_block_delta\ndata: '
            '{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\\"a\\":1}"}}'
            '\n\nevent: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":'
            '{"output_tokens":3}}\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n',
            AnswerSummary(200, 7, 3, "tool_use", "Hi", calls=(("f", '{"a": 1}'),)),
        ),
        (
            "/v1/responses",
            '{"status":"completed","output":[{"type":"reasoning","summary":[{"type":"summary_text","text":"hm"}]},'
            '{"type":"message","content":[{"type":"output_text","text":"Hi"}]},{"type":"function_call","name":"f",'
            '"arguments":"{\\"a\\":1}"}],"usage":{"input_tokens":7,"output_tokens":3}}',
            AnswerSummary(200, 7, 3, "completed", "Hi", "hm", (("f", '{"a": 1}'),)),
        ),
        ("/v1/embeddings", '{"data":[{"embedding":"AACAPwAAAEA="}],"usage":{"prompt_tokens":3}}',
         AnswerSummary(200, 3, vectors=((1.0, 2.0),))),
        ("/v1/chat/completions", 'data: {"error":{"message":"x"}}\n\n', AnswerSummary(None)),
        ("/v1/messages", 'event: error\ndata: {"type":"error","error":{"message":"x"}}\n\n', AnswerSummary(None)),
    ],
    ids=["openai-tools", "native-tools", "anthropic", "responses", "embeddings", "openai-error", "anthropic-error"],
)  # fmt: skip
def test_answers_of_every_api(path: str, content: str, expected: AnswerSummary) -> None:
    assert summary(path, 200, content.encode()) == expected


TOOLS = {"tools": [{"type": "function", "function": {"name": "f"}}]}
CALL = (("f", '{"a": 1}'),)


@pytest.mark.parametrize(
    ("request_", "source", "target", "differences"),
    [
        ({}, AnswerSummary(500), AnswerSummary(200), ()),  # the source's own failure tells nothing
        ({}, AnswerSummary(None), AnswerSummary(200), ()),
        ({}, AnswerSummary(400), AnswerSummary(200), ("status",)),
        ({}, AnswerSummary(400), AnswerSummary(400), ()),
        ({}, AnswerSummary(501), AnswerSummary(501), ()),
        ({}, AnswerSummary(200), AnswerSummary(503), ("status",)),
        ({}, ANSWER, AnswerSummary(200, understood=False), ("status",)),
        ({}, AnswerSummary(200, 9, text="a"), AnswerSummary(200, 9, text="b"), ()),  # sampled
        ({"options": {"temperature": 0}}, AnswerSummary(200, 9, text="a"), AnswerSummary(200, 9, text="b"),
         ("beginning", "text")),
        (TOOLS, AnswerSummary(200, 9, calls=CALL), AnswerSummary(200, 9, text="f!"), ("called",)),
        (TOOLS | {"temperature": 0}, AnswerSummary(200, 9, calls=CALL), AnswerSummary(200, 9, calls=(("f", "{}"),)),
         ("calls",)),
        ({"format": "json"}, AnswerSummary(200, text="{}"), AnswerSummary(200, text="{"), ("json_valid",)),
        ({"format": "json"}, AnswerSummary(200, text="{"), AnswerSummary(200, text="{"), ()),
        ({"response_format": {"type": "json_object"}}, AnswerSummary(200, text="{}"), AnswerSummary(200, text="no"),
         ("json_valid",)),
        ({}, AnswerSummary(200, vectors=((1.0, 0.0),)), AnswerSummary(200, vectors=((0.0, 1.0),)), ("embeddings",)),
        ({}, AnswerSummary(200, vectors=((1.0, 0.0),)), AnswerSummary(200, vectors=()), ("embeddings",)),
    ],
)  # fmt: skip
def test_what_counts_as_different(
    request_: Row, source: AnswerSummary, target: AnswerSummary, differences: tuple[str, ...]
) -> None:
    assert compare(request_, source, target, answered_by="source").differences == differences


@pytest.mark.parametrize(
    ("body", "default", "greedy"),
    [
        ({"options": {"temperature": 0}}, None, True),
        ({"options": {"temperature": 0.0}}, 0.8, True),
        ({"temperature": 0}, None, True),
        ({"options": {"top_k": 1}}, None, True),
        ({"options": {"temperature": 0.1}}, 0.0, False),
        ({}, None, False),
        ({}, 0.0, True),
        ({}, 0.8, False),
        ({"options": {"temperature": "0"}}, None, False),
        ({"options": {"temperature": False}}, None, False),
        ({"options": None}, None, False),
    ],
)
def test_greedy(body: Row, default: float | None, greedy: bool) -> None:
    assert is_greedy(body, default) is greedy


@given(st.text(max_size=20), st.text(max_size=20))
def test_first_difference(a: str, b: str) -> None:
    at = first_difference(a, b)
    if at is None:
        assert a == b
    else:
        assert a[:at] == b[:at]
        assert a[at : at + 1] != b[at : at + 1]


def test_cosine() -> None:
    assert cosine((3.0, 4.0), (6.0, 8.0)) == pytest.approx(1.0)
    assert cosine((1.0,), (1.0, 2.0)) == cosine((0.0,), (1.0,)) == 0.0
