"""Request bodies against what Ollama's own Go structs make of them, and against recordings of a real Ollama."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.gateway import decode
from migrate.gateway.decode import RawFormat, check_format, check_options
from migrate.gateway.go_duration import parse_duration
from migrate.gateway.go_syntax import GoError, check_syntax
from migrate.gateway.types import ApiError, ChatRequest, EmbedRequest, GenerateRequest

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "go-requests.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
]
LIMIT = "top_logprobs must be between 0 and 20"


def body_of(row: dict[str, Any]) -> bytes:
    return row["body"].encode() if "body" in row else bytes.fromhex(row["bytes"])


def read(route: str, body: bytes) -> Any:
    if route in ("chat", "generate", "embed", "embeddings", "show"):
        return getattr(decode, route)(body)
    return decode.model_of(body, route)


def is_kept(seconds: float | None, nanoseconds: int | None) -> bool:
    """Whether `keep_alive` is the same; what overflows in Go is longer than 292 years here."""
    if seconds is None or nanoseconds is None:
        return seconds is nanoseconds
    if nanoseconds == 2**63 - 1:
        return seconds == -1.0
    return seconds > 2**63 / 1e9 if nanoseconds < 0 else seconds == nanoseconds / 1e9


# ---- Go -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row", [row for row in ROWS if "error" in row], ids=lambda row: f"{row['route']} {row.get('body')}"[:60]
)
def test_errors_are_gos(row: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        read(row["route"], body_of(row))

    assert (caught.value.status, caught.value.message) == (400, row["error"])


@pytest.mark.parametrize(
    "row", [row for row in ROWS if "value" in row], ids=lambda row: f"{row['route']} {row.get('body')}"[:60]
)
def test_values_are_gos(row: dict[str, Any]) -> None:
    value = row["value"]
    if not 0 <= value.get("top_logprobs", 0) <= 20:
        check_refused(row, LIMIT)
    elif row["route"] == "embed" and not is_input(value.get("input")):
        check_refused(row, "invalid input type")
    elif row["route"] in ("show", "push") and not (value.get("model") or value.get("name")):
        check_refused(row, "model is required")
    else:
        CHECKS[row["route"]](read(row["route"], body_of(row)), row)


def check_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError, match=message):
        read(row["route"], body_of(row))


def is_input(value: Any) -> bool:
    return (
        value is None or isinstance(value, str) or (isinstance(value, list) and all(isinstance(t, str) for t in value))
    )


def check_answering(read: ChatRequest | GenerateRequest, row: dict[str, Any]) -> None:
    value = row["value"]
    assert read.model == value.get("model", "")
    assert read.options == value.get("options", {})
    assert is_kept(read.keep_alive, row.get("keep_alive"))
    assert read.think == (False if '"think":false' in row.get("body", "") else value.get("think"))
    for name in ("logprobs", "top_logprobs"):
        assert getattr(read, name) == value.get(name, type(getattr(read, name))())
    assert read.debug_render_only == value.get("_debug_render_only", False)
    for name in ("stream", "truncate", "shift"):
        assert getattr(read, name) == (f'"{name}":false' not in row.get("body", ""))


def check_chat(read: ChatRequest, row: dict[str, Any]) -> None:
    check_answering(read, row)
    expected = [
        {"role": "", "content": ""}
        | message
        | ({"images": [i or "" for i in message["images"]]} if message.get("images") else {})
        for message in row["value"].get("messages", [])
    ]
    for message in expected:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = call["function"]["arguments"] or {}
    assert list(read.messages) == expected
    assert json.dumps(read.tools) == json.dumps(row["value"].get("tools", []))  # in Go's order


def check_generate(read: GenerateRequest, row: dict[str, Any]) -> None:
    check_answering(read, row)
    for name in ("prompt", "suffix", "system", "template"):
        assert getattr(read, name) == row["value"].get(name, "")
    assert read.raw == row["value"].get("raw", False)
    assert (read.context or []) == row["value"].get("context", [])
    expected = [image or "" for image in row["value"].get("images", [])]
    assert [base64.b64decode(image) for image in read.images] == [base64.b64decode(image) for image in expected]


def check_embed(read: EmbedRequest, row: dict[str, Any]) -> None:
    given = row["value"].get("input") or []
    assert list(read.input) == ([given] if isinstance(given, str) else given)
    assert read.dimensions == row["value"].get("dimensions", 0)
    assert is_kept(read.keep_alive, row.get("keep_alive"))


def check_embeddings(read: EmbedRequest, row: dict[str, Any]) -> None:
    assert list(read.input) == ([row["value"]["prompt"]] if "prompt" in row["value"] else [])


def check_show(read: decode.ShowRequest, row: dict[str, Any]) -> None:
    assert read.model == (row["value"].get("model") or row["value"]["name"])
    assert read.verbose == row["value"].get("verbose", False)


def check_named(read: str, row: dict[str, Any]) -> None:
    assert read == (row["value"].get("model") or row["value"].get("name", ""))


CHECKS: dict[str, Callable[[Any, dict[str, Any]], None]] = {
    "chat": check_chat,
    "generate": check_generate,
    "embed": check_embed,
    "embeddings": check_embeddings,
    "show": check_show,
    "copy": lambda read, row: check_named(read, {"value": {"model": row["value"].get("source", "")}}),
    "pull": check_named,
    "push": check_named,
    "delete": check_named,
}


# ---- recordings -----------------------------------------------------------------------------------------------------


def test_errors_recorded_of_a_real_ollama(shared: Path) -> None:
    """Those of the body, of options and of format; the rest is about models."""
    seen = set()
    for line in (shared / "ollama" / "recordings.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["name"] not in (
            "error-bad-json",
            "error-no-body",
            "error-bad-option-type",
            "error-stop-not-list",
            "error-bad-format",
        ):
            continue
        seen.add(row["name"])
        sent = row["request"]["body"]
        with pytest.raises(ApiError) as caught:
            read_and_check((sent if isinstance(sent, str) else json.dumps(sent)).encode())
        assert caught.value.status == row["response"]["status"]
        assert caught.value.message == json.loads(row["response"]["body"])["error"]
    assert len(seen) == 5


def read_and_check(body: bytes) -> None:
    request = decode.chat(body)
    check_options(request.options)
    check_format(request.format)


def test_recorded_requests_decode(shared: Path) -> None:
    """What a real Ollama took, we take: nothing is lost of messages that were sent without what Ollama drops."""
    routes = {"/api/chat": decode.chat, "/api/generate": decode.generate, "/api/embed": decode.embed}
    read = 0
    for folder in ("ollama", "ollama/modern"):
        for line in (shared / folder / "recordings.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            sent = row["request"]["body"]
            if row["response"]["status"] != 200 or not isinstance(sent, dict) or row["request"]["path"] not in routes:
                continue
            request: Any = routes[row["request"]["path"]](json.dumps(sent).encode())
            assert request.model == sent["model"]
            if "messages" in sent:
                assert [(m["role"], m["content"]) for m in request.messages] == [
                    (m["role"], m.get("content", "")) for m in sent["messages"]
                ]
            known, unknown = check_options(request.options)
            assert known.keys() | unknown == sent.get("options", {}).keys()
            read += 1
    assert read > 200


# ---- ours -----------------------------------------------------------------------------------------------------------


def test_a_whole_request() -> None:
    request = decode.chat(
        b'{"model": "m", "messages": [{"role": "USER", "content": "x", "images": ["aG\\nk="]}], "format": "json",'
        b' "options": {"temperature": 0, "stop": ["a"]}, "stream": false, "think": "high",'
        b' "keep_alive": "1h30m"} and more'
    )

    assert request == ChatRequest(
        model="m",
        tools=[],
        messages=[{"role": "user", "content": "x", "images": ["aGk="]}],
        format="json",
        options={"temperature": 0, "stop": ["a"]},
        stream=False,
        think="high",
        keep_alive=5400.0,
    )


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("null", None),
        ('""', None),
        ('"json"', "json"),
        ('{"type": "object", "properties": {"b": {}, "a": {}}}', {"type": "object", "properties": {"b": {}, "a": {}}}),
    ],
)
def test_formats(sent: str, expected: Any) -> None:
    found = check_format(decode.generate(f'{{"format": {sent}}}'.encode()).format)

    assert json.dumps(found) == json.dumps(expected)


@pytest.mark.parametrize("sent", ['"xml"', "5", "true", "[1,  2]", '"\\u006ason"', '" "'])
def test_formats_that_are_refused_later(sent: str) -> None:
    """Ollama compares the text that was sent: another spelling of "json" is none."""
    request = decode.chat(f'{{"FORMAT":"json", "x": [1, {{}}], "format" :{sent} , "model":"m"}}'.encode())

    assert request.format == RawFormat(sent)
    with pytest.raises(ApiError) as caught:
        check_format(request.format)
    quoted = json.dumps(sent)
    expected = f'invalid format: {quoted}; expected "json" or a valid JSON Schema object'
    assert (caught.value.status, caught.value.message) == (500, expected)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("temperature", 1, 1.0),
        ("temperature", "hot", 'option "temperature" must be of type float32'),
        ("temperature", True, 'option "temperature" must be of type float32'),
        ("top_k", 40.9, 40),
        ("seed", -1.9, -1),
        ("seed", 1e30, -(2**63)),
        ("num_ctx", "8192", 'option "num_ctx" must be of type integer'),
        ("main_gpu", True, 'option "main_gpu" must be of type integer'),
        ("use_mmap", 1, 'option "use_mmap" must be of type boolean'),
        ("use_mmap", False, False),
        ("stop", "a", 'option "stop" must be of type array'),
        ("stop", ["a", 1], 'option "stop" must be of an array of strings'),
        ("stop", [], []),
    ],
)
def test_options(name: str, value: Any, expected: Any) -> None:
    if isinstance(expected, str):
        with pytest.raises(ApiError) as caught:
            check_options({name: value})
        assert (caught.value.status, caught.value.message) == (500, expected)
    else:
        assert check_options({name: value}) == ({name: expected}, [])


def test_options_that_are_not_set_or_not_known() -> None:
    assert check_options({"seed": None, "Temperature": "hot", "mirostat": 1}) == ({}, ["Temperature", "mirostat"])


def test_what_nests_too_deep() -> None:
    for depth, opening, closing in ((300, "[", "]"), (300, '{"a":', "}"), (50_000, "[", "]"), (50_000, '{"a":', "}")):
        body = f'{{"options": {{"a": {opening * depth}1{closing * depth}}}}}'.encode()
        with pytest.raises(ApiError, match=f"invalid character '{opening[0]}' exceeded max depth".replace("[", r"\[")):
            decode.chat(body)


def test_a_model_by_its_older_name() -> None:
    assert decode.model_of(b'{"name": "a"}', "delete") == "a"
    assert decode.model_of(b'{"name": "a", "model": "b"}', "create") == "b"
    assert decode.model_of(b'{"source": "a", "destination": "b"}', "copy") == "a"
    assert decode.model_of(b"{}", "pull") == ""


@given(st.binary(max_size=40) | st.text(alphabet='{}[]",:\\ 0-.eEtfnul\u00e9', max_size=40).map(str.encode))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """Where we find no error Python reads an object, or null."""
    try:
        request = decode.chat(body)
    except ApiError:
        return
    found, _ = json.JSONDecoder().raw_decode(body.decode("utf-8", "replace").lstrip(" \t\r\n"))
    assert isinstance(found, dict | None)
    assert isinstance(request, ChatRequest)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda v: st.lists(v) | st.dictionaries(st.text(), v),
    )
)
def test_what_is_json_has_no_syntax_error(value: Any) -> None:
    text = json.dumps(value).encode()
    check_syntax(text)
    with pytest.raises(GoError):
        check_syntax(b"[" + text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("-0", 0),
        ("1h2m3.5s", 3_723_500_000_000),
        ("-1.5h", -5_400_000_000_000),
        (".5s", 500_000_000),
        ("1\u00b5s", 1_000),
        ("9223372036.854775807s", 2**63 - 1),
        ("-9223372036.854775808s", -(2**63)),
        ("9223372036.854775808s", 'time: invalid duration "9223372036.854775808s"'),
        ("", 'time: invalid duration ""'),
        ("5", 'time: missing unit in duration "5"'),
        ("5 m", 'time: unknown unit " m" in duration "5 m"'),
        ("1\u00e9\n", 'time: unknown unit "\\xc3\\xa9\\x0a" in duration "1\\xc3\\xa9\\x0a"'),
    ],
)
def test_durations(text: str, expected: int | str) -> None:
    if isinstance(expected, int):
        assert parse_duration(text) == expected
    else:
        with pytest.raises(GoError) as caught:
            parse_duration(text)
        assert str(caught.value) == expected
