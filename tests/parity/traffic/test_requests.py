"""Requests from files: what a line is, what of it is compared, and what is not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.errors import BadInput, NotFound
from migrate.parity.facts import BundleFacts
from migrate.parity.traffic.conversations import IMAGES_NOTE, PARTS_NOTE
from migrate.parity.traffic.logs import Limits
from migrate.parity.traffic.read import Batch, read_requests
from migrate.parity.traffic.redact import Redactor
from migrate.parity.traffic.requests import Request, same_model
from tests.ollama.replay import recordings

USER = {"role": "user", "content": "hello"}
SYSTEM = {"role": "system", "content": "Be brief."}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def facts(**source: Any) -> BundleFacts:
    given: dict[str, Any] = {"name": "m", "prompt_path": "go_template", "template": "{{ .Prompt }}"}
    return BundleFacts.model_validate({"source": given | source})


def read(tmp_path: Path, rows: Sequence[Any], **options: Any) -> Batch:
    path = tmp_path / "requests.jsonl"
    lines = (row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows)
    path.write_bytes(b"\n".join(lines) + b"\n")
    return read_requests(path, **options)


def one(tmp_path: Path, row: Any, **options: Any) -> Request:
    (request,) = read(tmp_path, [row, {"messages": [{"role": "user", "content": "another"}]}], **options).seen[:1]
    return request


def messages(request: Request) -> list[Mapping[str, Any]]:
    assert request.conversation is not None, request.unusable
    return list(request.conversation.messages)


SHAPES = [
    ({"messages": [USER]}, "/api/chat"),
    ({"messages": [USER], "options": {"temperature": 0}}, "/api/chat"),
    ({"messages": [USER], "temperature": 0}, "/v1/chat/completions"),
    ({"messages": [USER], "max_completion_tokens": 5}, "/v1/chat/completions"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, "/v1/chat/completions"),
    ({"messages": [{"role": "developer", "content": "x"}]}, "/v1/chat/completions"),
    ({"messages": [USER], "system": "x", "max_tokens": 5}, "/v1/messages"),
    ({"prompt": "x"}, "/api/generate"),
    ({"prompt": "x", "system": "y"}, "/api/generate"),
    ({"prompt": "x", "max_tokens": 5}, "/v1/completions"),
    ({"prompt": "x", "raw": True, "options": {}}, "/api/generate"),
    ({"input": "x"}, "/api/embed"),
    ({"input": ["x"], "truncate": True}, "/api/embed"),
    ({"input": "x", "encoding_format": "float"}, "/v1/embeddings"),
    ({"input": "x", "instructions": "y"}, "/v1/responses"),
    ({"input": [{"role": "user", "content": "x"}]}, "/v1/responses"),
]


@pytest.mark.parametrize(("body", "endpoint"), SHAPES)
def test_endpoint_from_the_shape(tmp_path: Path, body: dict[str, Any], endpoint: str) -> None:
    assert one(tmp_path, body).endpoint == endpoint


WRAPPED = [
    {"path": "/api/generate", "body": {"prompt": "x"}},
    {"endpoint": "/api/generate", "request": {"prompt": "x"}},
    {"url": "http://127.0.0.1:11434/api/generate?x=1", "body": {"prompt": "x"}},
    {"url": "https://host/prefix/api/generate/", "body": '{"prompt": "x"}'},
    {"name": "n", "request": {"method": "POST", "path": "/api/generate", "body": {"prompt": "x"}}, "response": {}},
    {"time": "2026-01-01T00:00:00Z", "path": "/api/generate", "status": 200, "body": {"prompt": "x"}},
    {"body": {"prompt": "x"}},
]


@pytest.mark.parametrize("row", WRAPPED)
def test_objects_around_a_request(tmp_path: Path, row: dict[str, Any]) -> None:
    request = one(tmp_path, row)
    assert (request.endpoint, request.body) == ("/api/generate", {"prompt": "x"})
    assert messages(request) == [{"role": "user", "content": "x"}]
    assert request.world == "native"


def test_embeddings(tmp_path: Path) -> None:
    rows = [
        {"path": "/api/embed", "body": {"model": "m", "input": ["a", "b"]}},
        {"path": "/v1/embeddings", "body": {"model": "m", "input": "c"}},
        {"model": "m", "prompt": "a"},
        {"path": "/api/embed", "body": {"model": "m", "input": []}},
        {"path": "/api/embed", "body": {"model": "m", "input": [[1, 2]]}},
        {"path": "/api/chat", "body": {"model": "m", "messages": [USER]}},
    ]
    batch = read(tmp_path, rows, facts=facts(), embedding=True)
    assert batch.texts == ("a", "b", "c")
    assert [request.endpoint for request in batch.requests] == ["/api/embed", "/v1/embeddings", "/api/embeddings"]
    assert batch.traffic.unusable == 3
    assert not batch.conversations
    with pytest.raises(BadInput, match="none of its 2 requests"):
        read(tmp_path, rows[:2], facts=facts())


CHATS = [
    # (body of /api/chat or /v1/chat/completions, messages in Ollama's form)
    ({"messages": [{"role": "User", "content": "x", "name": "ada"}]}, [{"role": "user", "content": "x"}]),
    (
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "thinking": "hm",
                    "tool_calls": [{"id": "c1", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}}],
                },
                {"role": "tool", "content": "4", "tool_name": "f"},
            ],
            "tools": [TOOL],
        },
        [
            USER,
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}, "id": "c1"}],
                "thinking": "hm",
            },
            {"role": "tool", "content": "4", "tool_name": "f"},
        ],
    ),
    (
        {
            "temperature": 0,
            "messages": [
                SYSTEM,
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {
                    "role": "assistant",
                    "content": None,
                    "reasoning": "hm",
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
                    ],
                },
                {"role": "tool", "tool_call_id": "c1", "content": "4"},
            ],
        },
        [
            SYSTEM,
            {"role": "user", "content": "a"},
            {"role": "user", "content": "b"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}, "id": "c1"}],
                "thinking": "hm",
            },
            {"role": "tool", "content": "4", "tool_call_id": "c1", "tool_name": "f"},
        ],
    ),
    (
        {
            "temperature": 0,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
                        {"type": "text", "text": "what is it?"},
                    ],
                }
            ],
        },
        [{"role": "user", "content": "what is it?"}],
    ),
]


@pytest.mark.parametrize(("body", "expected"), CHATS)
def test_chats(tmp_path: Path, body: dict[str, Any], expected: list[Any]) -> None:
    request = one(tmp_path, body)
    assert messages(request) == expected
    assert request.conversation is not None
    assert request.conversation.tools == tuple(body.get("tools", ()))


def test_think(tmp_path: Path) -> None:
    for body, think in (
        ({"messages": [USER]}, None),
        ({"messages": [USER], "think": False}, False),
        ({"messages": [USER], "think": "high"}, "high"),
        ({"messages": [USER], "reasoning_effort": "none"}, False),
        ({"messages": [USER], "reasoning": {"effort": "minimal"}}, "low"),
        ({"prompt": "x", "think": True}, True),
    ):
        request = one(tmp_path, body)
        assert request.conversation is not None
        assert request.conversation.think == think


UNUSABLE = [
    ({"messages": [], "model": "m", "keep_alive": 0}, "loads or unloads"),
    ({"prompt": "", "model": "m"}, "loads or unloads"),
    ({"prompt": "x", "raw": True}, "raw"),
    ({"prompt": "x", "suffix": "y"}, "suffix"),
    ({"prompt": "x", "template": "{{ .Prompt }}"}, "its own template"),
    ({"prompt": "x", "context": [1, 2]}, "context"),
    ({"prompt": ["x"], "max_tokens": 1}, "not text"),
    ({"messages": [{"role": "user", "content": "", "images": ["AA"]}]}, "images only"),
    ({"messages": [{"content": "x"}]}, "no role"),
    ({"messages": "x"}, "no list"),
    ({"messages": [{"role": "user", "content": 5}]}, "not text"),
    ({"messages": [USER], "tools": ["x"]}, "a tool is no function"),
    ({"messages": [USER], "think": "very"}, "think"),
    ({"messages": [USER], "reasoning_effort": "very"}, "effort"),
    ({"messages": [{"role": "user", "content": None}], "temperature": 0}, "no content"),
    ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "neither text nor"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]}, "arguments"),
    ({"messages": [USER], "_debug_render_only": True}, "prompt only"),
    ({"input": "x", "instructions": "y"}, "/v1/responses"),
    ({"messages": [USER], "system": "x"}, "/v1/messages"),
    ({"input": "x"}, "embeddings"),
    ({"path": "/api/chat", "status": 404, "body": {"messages": [USER]}}, "Ollama answered it with 404"),
]


@pytest.mark.parametrize(("row", "reason"), UNUSABLE)
def test_unusable(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    batch = read(tmp_path, [row, {"messages": [{"role": "user", "content": "another"}]}], facts=facts())
    assert reason in batch.seen[0].unusable
    assert (batch.traffic.used, batch.traffic.unusable, batch.traffic.read) == (1, 1, 2)
    assert any(reason in note for note in batch.traffic.notes)
    assert batch.seen[0].body.keys() == row.get("body", row).keys()


def test_other_models(tmp_path: Path) -> None:
    rows = [{"messages": [USER], "model": name} for name in ("other", "m:8b", "m:8b", "m", "M:latest")]
    batch = read(tmp_path, rows, facts=facts())
    assert [request.model for request in batch.seen] == ["m", "M:latest"]
    assert (batch.traffic.read, batch.traffic.unusable, batch.traffic.used) == (5, 3, 1)
    assert batch.traffic.notes[:2] == [
        "2 requests left out: for another model (m:8b)",
        "1 request left out: for another model (other)",
    ]
    with pytest.raises(BadInput, match="none of its 5 requests can be compared") as raised:
        read(tmp_path, rows, facts=facts(name="third"))
    assert "another model" in str(raised.value.hint)


def test_server_trouble_is_not_the_requests_fault(tmp_path: Path) -> None:
    for status in (None, 200, 429, 499, 500, 502, 503):
        row = {"path": "/api/chat", "status": status, "body": {"messages": [USER]}}
        assert not one(tmp_path, row).unusable


def test_generate_and_the_models_own_texts(tmp_path: Path) -> None:
    """`system` stands before the MESSAGE lines in generate and behind them in chat (routes.go)."""
    plain, own = {"prompt": "x"}, {"prompt": "x", "system": "Be brief."}
    user = {"role": "user", "content": "x"}
    lines = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert messages(one(tmp_path, plain, facts=facts(system="S", messages=lines))) == [user]
    assert messages(one(tmp_path, own, facts=facts(system="S"))) == [SYSTEM, user]
    assert messages(one(tmp_path, own, facts=facts(system="Be brief.", messages=lines))) == [user]
    assert "MESSAGE lines" in one(tmp_path, own, facts=facts(system="S", messages=lines)).unusable
    assert messages(one(tmp_path, {"prompt": "x", "system": ""}, facts=facts(messages=lines))) == [user]
    native = {"prompt_path": "gguf_jinja", "template": None}
    assert "no template" in one(tmp_path, plain, facts=facts(**native)).unusable
    assert not one(tmp_path, plain, facts=facts(**native, chat_template="{{ messages }}")).unusable
    assert not one(tmp_path, {"messages": [USER]}, facts=facts(**native)).unusable


def test_generate_gives_the_prompt_of_its_conversation(shared: Path, tmp_path: Path) -> None:
    """As a real Ollama counted: a prompt and the conversation made of it have as many tokens."""
    rows = recordings(shared / "ollama" / "recordings.jsonl")
    asked = {}
    for row in rows:
        if row["name"].startswith("generate/"):
            (request,) = read(tmp_path, [row]).requests
            asked[request.model, json.dumps(messages(request))] = row
    found = 0
    for row in rows:
        body = row["request"]["body"]
        if row["name"].startswith("chat/") and (body["model"], json.dumps(body["messages"])) in asked:
            generate = asked[body["model"], json.dumps(body["messages"])]
            counts = {json.loads(r["response"]["body"])["prompt_eval_count"] for r in (row, generate)}
            assert len(counts) == 1, body["model"]
            found += 1
    assert found >= 5


def test_where_generate_puts_its_system(shared: Path) -> None:
    """In the ids that a real Ollama returned, `system` stands before the MESSAGE lines: no chat has that prompt."""
    import gguf

    store = shared / "ollama" / "store"
    manifest = json.loads(next(store.rglob("support-bot/latest")).read_text())
    blob = next(layer["digest"] for layer in manifest["layers"] if layer["mediaType"].endswith(".model"))
    tokens = gguf.GGUFReader(next(store.rglob(blob.replace(":", "-")))).fields["tokenizer.ggml.tokens"].contents()
    rows = {row["name"]: row for row in recordings(shared / "ollama" / "recordings.jsonl")}
    ids = json.loads(rows["generate-system"]["response"]["body"])["context"]
    prompt = "".join(tokens[i] for i in ids)
    places = [prompt.index(part) for part in ("Answer", "France", "Peru")]
    assert places == sorted(places)
    assert rows["generate-system"]["request"]["body"]["system"] == "Answer in one word."


def test_completions_know_no_system(tmp_path: Path) -> None:
    """The OpenAI route reads prompt and suffix only."""
    row = {"path": "/v1/completions", "body": {"prompt": "x", "system": "y", "raw": True, "max_tokens": 3}}
    request = one(tmp_path, row)
    assert messages(request) == [{"role": "user", "content": "x"}]
    assert request.world == "openai"


def test_notes(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "look", "images": ["AA"]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
        {"messages": [USER]},
    ]
    batch = read(tmp_path, rows)
    assert f"in 1 request: {IMAGES_NOTE}" in batch.traffic.notes
    assert f"in 1 request: {PARTS_NOTE}" in batch.traffic.notes
    assert any("fit more than one endpoint and were taken for /api/chat" in note for note in batch.traffic.notes)


def test_broken_lines_are_told(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"messages": [USER]},
        b"{",
        b"",
        b"\xff\xfe",
        b'{"messages": [NaN]}',
        b"[" * 100_000,
        b'{"messages": ' + b"[" * 80 + b"]" * 80 + b"}",
        b"5",
        {"model": "m"},
        {"path": "/api/show", "body": {}},
        {"path": "/api/chat", "body": "no json"},
        b'{"messages": [], "n": ' + b"9" * 5000 + b"}",
        {"messages": [USER, USER]},
    ]
    batch = read(tmp_path, rows)
    assert (batch.traffic.read, batch.traffic.used, batch.traffic.unusable) == (12, 2, 10)
    told = " / ".join(batch.traffic.notes)
    assert "lines 2, 5, 6, 12 left out: it is not JSON" in told
    assert "line 4 left out: it is not UTF-8" in told
    assert "line 7 left out: it is nested deeper than 64" in told
    assert "line 8 left out: it is no object" in told
    assert "line 9 left out: it has neither messages nor prompt nor input" in told
    assert "'/api/show' is no endpoint" in told
    assert [request.place for request in batch.requests] == ["line 1", "line 13"]


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none of its 2 lines is a request; line 1: it is not JSON"):
        read(tmp_path, [b"{", b"}"])
    with pytest.raises(BadInput, match="empty"):
        read(tmp_path, [b""])
    with pytest.raises(BadInput, match="none of its 1 requests can be compared") as raised:
        read(tmp_path, [{"prompt": "x", "raw": True}])
    assert "raw" in str(raised.value.hint)
    with pytest.raises(NotFound):
        read_requests(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no request logs"):
        read_requests(tmp_path / "empty")


def test_limits(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"{i} " + "x" * 100}]} for i in range(50)]
    batch = read(tmp_path, rows, limits=Limits(lines=10))
    assert batch.traffic.used == 10
    assert "only the first 10 lines were read" in batch.traffic.notes[0]
    batch = read(tmp_path, rows, limits=Limits(bytes=1000))
    assert 5 <= batch.traffic.used < 12
    batch = read(
        tmp_path, [*rows[:3], {"messages": [{"role": "user", "content": "y" * 500}]}], limits=Limits(line_bytes=300)
    )
    assert batch.traffic.used == 3
    assert "line 4 left out: it is too long" in batch.traffic.notes[0]


def test_endless_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="too long"):
        read_requests(Path("/dev/zero"), limits=Limits(bytes=4 << 20, line_bytes=1 << 20))


def test_log_directory(tmp_path: Path) -> None:
    """Names and bodies as Ollama writes them (server/inference_request_log.go)."""
    folder = tmp_path / "ollama-request-logs-1"
    folder.mkdir()
    logs = {
        "20260823T101502.123456789Z-000002_v1_chat_completions": {"messages": [{"role": "user", "content": "second"}]},
        "20260823T101501.000000000Z-000001_api_generate": {"prompt": "first"},
        "20260823T101503.000000000Z-000003_v1_messages": {"messages": [USER], "max_tokens": 5},
    }
    for name, body in logs.items():
        (folder / f"{name}_body.json").write_text(json.dumps(body, indent=2))
        (folder / f"{name}_request.sh").write_text("#!/bin/sh\ncurl ...\n")
    (folder / "other.json").write_text("{")
    for path in (folder, tmp_path):
        batch = read_requests(path)
        assert [request.endpoint for request in batch.seen] == ["/api/generate", "/v1/chat/completions", "/v1/messages"]
        assert [request.place for request in batch.requests] == ["log 1", "log 2"]
        assert batch.traffic.read == 3
    single = folder / "20260823T101502.123456789Z-000002_v1_chat_completions_body.json"
    assert read_requests(single).seen[0].endpoint == "/v1/chat/completions"


def test_duplicates(tmp_path: Path) -> None:
    """The same conversation through either API, with other options and in another order of keys."""
    rows = [
        {"model": "m", "messages": [USER]},
        {"messages": [{"content": "hello", "role": "user"}], "model": "m:latest", "options": {"seed": 1}},
        {"path": "/v1/chat/completions", "body": {"model": "M", "messages": [USER], "temperature": 0}},
        {"model": "m", "prompt": "hello"},
        {"messages": [USER], "think": False},
        {"messages": [USER], "tools": [TOOL]},
        {"model": "m", "messages": [USER]},
    ]
    batch = read(tmp_path, rows, facts=facts())
    assert [request.count for request in batch.requests] == [5, 1, 1]
    assert (batch.traffic.read, batch.traffic.duplicates, batch.traffic.used) == (7, 4, 3)
    assert [request.count for request in batch.seen] == [2, 1, 1, 1, 1, 1]
    assert len({c.name for c in batch.conversations}) == 3


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ("m", "m:latest", True),
        ("M", "m", True),
        ("library/m", "m", True),
        ("registry.ollama.ai/library/m:latest", "m", True),
        ("m:local", "m", True),
        ("m:8b", "m", False),
        ("hf.co/a/m", "a/m", False),
        ("not a name", "not a name", True),
        ("not a name", "m", False),
        ("", "m", False),
    ],
)
def test_model_names(ours: str, theirs: str, same: bool) -> None:
    assert same_model(ours, theirs) is same


def test_text_that_is_no_unicode(tmp_path: Path) -> None:
    """Half a surrogate pair becomes U+FFFD, as when Go decodes it; the request can be sent on."""
    request = one(tmp_path, b'{"messages": [{"role": "user", "content": "a\\ud800b \\ud83d\\ude00"}]}')
    assert messages(request)[0]["content"] == "a\ufffdb 😀"


def test_images_do_not_fill_the_memory(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "x", "images": ["A" * 100_000] * 3}]}
    assert len(json.dumps(one(tmp_path, row).body)) < 200


def test_redacted_before_anything_looks_at_it(tmp_path: Path) -> None:
    rows = [{"model": "m", "messages": [{"role": "user", "content": f"mail ada@corp.io {i}"}]} for i in (1, 1, 2)]
    batch = read(tmp_path, rows, facts=facts(), redactor=Redactor(b"salt"))
    assert batch.traffic.redacted
    assert (batch.traffic.used, batch.traffic.duplicates) == (2, 1)
    assert "corp.io" not in repr(batch)
    assert ".example" in batch.conversations[0].messages[0]["content"]


def test_notes_are_redacted_too(tmp_path: Path) -> None:
    rows = [
        {"model": "m", "messages": [USER]},
        {"path": "https://ada:s3cret@host/users/ada@corp.io", "body": {"messages": [USER]}},
        {"model": "ada@corp.io", "messages": [USER]},
    ]
    batch = read(tmp_path, rows, facts=facts(), redactor=Redactor(b"salt"))
    assert (batch.traffic.unusable, batch.traffic.used) == (2, 1)
    assert "corp.io" not in repr(batch)
    assert "s3cret" not in repr(batch)


_BODIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "messages",
                    "prompt",
                    "input",
                    "body",
                    "request",
                    "path",
                    "role",
                    "content",
                    "tool_calls",
                    "function",
                    "name",
                    "arguments",
                    "type",
                    "text",
                    "tools",
                    "images",
                    "system",
                    "think",
                    "reasoning",
                    "context",
                    "model",
                    "status",
                    "answer",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None)
@given(row=_BODIES)
def test_any_json_is_a_request_or_told(tmp_path_factory: pytest.TempPathFactory, row: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps({"messages": [{"role": "user", "content": "ok"}]}) + "\n")
    batch = read_requests(path, facts=facts(messages=[USER]), redactor=Redactor(b"salt"))
    assert 1 <= batch.traffic.used <= 2
    assert batch.traffic.read == 2
    for conversation in batch.conversations:
        json.dumps([list(conversation.messages), list(conversation.tools)]).encode()
        assert all(isinstance(m["content"], str) and isinstance(m["role"], str) for m in conversation.messages)
