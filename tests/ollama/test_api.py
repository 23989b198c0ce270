"""The client of a live server, held to what a real Ollama 0.33 answered."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import MigrateError, NotFound, ServerError, ServerUnreachable, UsageError
from migrate.ollama import transport
from migrate.ollama.api import OllamaAPI, base_url, model_from_show, parse_parameters
from migrate.ollama.capabilities import capabilities
from migrate.ollama.model import OllamaModel
from migrate.ollama.prompt_path import prompt_path
from migrate.ollama.store import Store
from tests.ollama.replay import recordings, replay, serving

Rows = list[dict[str, Any]]
STORES = {"ollama": 7, "ollama/modern": 5}


@pytest.fixture(scope="module", params=STORES)
def home(shared: Path, request: pytest.FixtureRequest) -> Path:
    return shared / str(request.param)


@pytest.fixture(scope="module")
def rows(home: Path) -> Rows:
    return recordings(home / "recordings.jsonl")


@pytest.fixture(scope="module")
def api(rows: Rows) -> Iterator[OllamaAPI]:
    with replay(rows) as url, OllamaAPI(url, timeout=20) as client:
        yield client


def bodies(rows: Rows, prefix: str) -> dict[str, Any]:
    return {r["name"]: json.loads(r["response"]["body"]) for r in rows if r["name"].startswith(prefix)}


def test_version(api: OllamaAPI) -> None:
    assert api.version() == "0.33.0-rc2"


def test_list_shows_what_the_store_shows(api: OllamaAPI, home: Path) -> None:
    store = Store(home / "store")
    listed = {s.name: (s.digest, s.size, s.family, s.parameter_size, s.quantization) for s in api.list()}
    summaries = [store.summary(name) for name in store.list()]
    assert listed == {s.name: (s.digest, s.size, s.family, s.parameter_size, s.quantization) for s in summaries}
    assert [s.name for s in api.list()] == store.list()


def test_show_is_the_reply_as_it_is(api: OllamaAPI, rows: Rows) -> None:
    shown = bodies(rows, "show/")
    assert len(shown) in STORES.values()
    for name, body in shown.items():
        assert api.show(name.removeprefix("show/")) == body


def test_ps(api: OllamaAPI) -> None:
    loaded = api.ps()
    assert loaded
    assert all(model["context_length"] > 0 and model["name"].endswith(":latest") for model in loaded)


def test_every_recorded_prompt_or_refusal(api: OllamaAPI, rows: Rows) -> None:
    renders = [r for r in rows if r["name"].startswith("render/")]
    assert len(renders) >= 68
    for row in renders:
        body, response = row["request"]["body"], row["response"]
        fields = {key: body[key] for key in ("tools", "think") if key in body}
        if response["status"] == 200:
            expected = json.loads(response["body"])["_debug_info"]["rendered_template"]
            assert api.render(body["model"], body["messages"], **fields) == expected, row["name"]
        else:
            with pytest.raises(ServerError) as caught:
                api.render(body["model"], body["messages"], **fields)
            assert caught.value.status == response["status"]
            assert json.loads(response["body"])["error"] in str(caught.value)


def test_chat_with_logprobs(shared: Path) -> None:
    all_rows = recordings(shared / "ollama" / "recordings.jsonl")
    row = next(r for r in all_rows if r["name"] == "chat/native-bot/0")
    body = row["request"]["body"]
    with replay(all_rows) as url, OllamaAPI(url) as api:
        reply = api.chat(
            body["model"], body["messages"], options=body["options"], logprobs=True, top_logprobs=body["top_logprobs"]
        )
    assert reply == json.loads(row["response"]["body"])
    assert len(reply["logprobs"][0]["top_logprobs"]) == 20


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("error-unknown-model-chat", 404, "model 'nope' not found"),
        ("error-bad-format", 500, "invalid format"),
        ("error-think-unsupported", 400, "does not support thinking"),
        ("error-tools-unsupported", 400, "does not support tools"),
        ("error-stop-not-list", 500, "must be of type array"),
        ("error-bad-option-type", 500, "must be of type float32"),
    ],
)
def test_errors_are_the_servers_words(shared: Path, name: str, status: int, words: str) -> None:
    all_rows = recordings(shared / "ollama" / "recordings.jsonl")
    body = next(r["request"]["body"] for r in all_rows if r["name"] == name)
    with replay(all_rows) as url, OllamaAPI(url) as api, pytest.raises(ServerError, match=words) as caught:
        api._client.json("POST", "/api/chat", body)
    assert caught.value.status == status


def test_what_was_not_recorded_is_said(api: OllamaAPI) -> None:
    with pytest.raises(ServerError, match="not recorded: POST /api/chat") as caught:
        api.chat("support-bot", [{"role": "user", "content": "never asked"}])
    assert caught.value.status == 501


# A model


def without_files(model: OllamaModel) -> dict[str, Any]:
    names = ("template", "system", "renderer", "parser", "requires", "parameters", "messages", "licenses", "parent")
    return {name: getattr(model, name) for name in names}


def test_show_and_store_tell_the_same(home: Path, rows: Rows) -> None:
    """Where no blob is readable, the server's words alone give the same model, path and capabilities."""
    store = Store(home / "store")
    for name, body in bodies(rows, "show/").items():
        shown, stored = model_from_show(name, body), store.load(name.removeprefix("show/"))
        assert shown.gguf is None
        assert without_files(shown) == without_files(stored), name
        assert shown.digests["model"] == stored.digests["model"]
        path = prompt_path(shown).path
        assert path == prompt_path(stored).path, name
        assert capabilities(shown, path) == set(body["capabilities"]), name


def test_files_on_this_machine_are_read(api: OllamaAPI, home: Path) -> None:
    for summary in api.list():
        model = api.load_model(summary.name.short, models_dir=home / "store")
        assert model.kind == "host"
        assert model.gguf is not None
        assert model.ollama_version == "0.33.0-rc2"
        assert model.digests["manifest"] == summary.digest


def test_blobs_are_found_by_digest_in_another_store(rows: Rows, home: Path) -> None:
    name, body = next(iter(bodies(rows, "show/").items()))
    model = model_from_show(name, body, Store(home / "store"))
    assert model.gguf_path is not None
    assert model.gguf_path.is_relative_to(home / "store")
    assert model.gguf is not None


def test_unknown_model(shared: Path) -> None:
    rows = recordings(shared / "ollama" / "recordings.jsonl")
    with replay(rows) as url, OllamaAPI(url) as api, pytest.raises(NotFound) as caught:
        api.load_model("nope", models_dir=shared / "ollama" / "store")
    assert "nope:latest" in str(caught.value)
    assert "support-bot:latest" in (caught.value.hint or "")


def test_the_servers_choice_of_template_counts() -> None:
    jinja = "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}"
    shown = {"modelfile": "FROM /x/sha256-00\nTEMPLATE {{ .Prompt }}!\n", "template": jinja}
    model = model_from_show("m", shown)
    decision = prompt_path(model, go_template_env="1")
    assert decision.path == "gguf_jinja"
    assert model.model_info["tokenizer.chat_template"] == jinja
    assert [note.item for note in decision.notes] == ["TEMPLATE"]


def test_a_modelfile_with_broken_quotes_still_tells_its_single_lines() -> None:
    text = 'FROM /m/blobs/sha256-1\nTEMPLATE """a"""b"""\nSYSTEM "open\nRENDERER qwen3.5\nPARSER qwen3.5\n'
    model = model_from_show("m", {"modelfile": text, "system": '"open'})
    assert (model.renderer, model.parser, model.system) == ("qwen3.5", "qwen3.5", '"open')


def test_parameters_text() -> None:
    text = 'num_ctx                        1.048576e+06\nstop                           "a\\n\\"b\\""\n'
    text += 'stop   "\\u00e9"\nuse_mmap                       true\nmirostat   1'
    assert parse_parameters(text) == {"num_ctx": 1048576, "stop": ['a\n"b"', "é"], "use_mmap": True, "mirostat": 1}


FIELDS = st.sampled_from(
    ["role", "content", "family", "parent_model", "general.architecture", "tokenizer.chat_template"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | FIELDS, inner, max_size=3),
    max_leaves=6,
)
KEYS = ("modelfile", "template", "system", "parameters", "messages", "license", "details", "model_info", "capabilities")


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=2))
def test_any_reply_is_a_model_or_an_error_with_a_message(shown: dict[str, Any]) -> None:
    try:
        model = model_from_show("m", shown)
    except MigrateError as error:
        message = str(error)
    else:
        message = prompt_path(model).reason
    assert message


# Addresses


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (None, "http://127.0.0.1:11434"),
        ("", "http://127.0.0.1:11434"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        (":1234", "http://127.0.0.1:1234"),
        ("example.com", "http://example.com:11434"),
        ("example.com:5678", "http://example.com:5678"),
        ("http://1.2.3.4", "http://1.2.3.4:80"),
        ("https://1.2.3.4", "https://1.2.3.4:443"),
        ("https://example.com:8443/ollama/", "https://example.com:8443/ollama"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:1337", "http://[::1]:1337"),
        ("::1", "http://[::1]:11434"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("[::]", "http://[::1]:11434"),
        (" '1.2.3.4:99' ", "http://1.2.3.4:99"),
        ("example.com:70000", "http://example.com:11434"),
        ("ollama.com", "https://ollama.com:443"),
    ],
)
def test_base_url(text: str | None, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    assert base_url(text) == url


def test_base_url_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", '"0.0.0.0"')
    assert base_url() == "http://127.0.0.1:11434"


@pytest.mark.parametrize("text", ["ftp://x", "http://a b", "http://user@host", "http://[::1"])
def test_no_address(text: str) -> None:
    with pytest.raises(UsageError):
        base_url(text)


# Servers that misbehave


def test_nobody_is_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with OllamaAPI(f"127.0.0.1:{port}") as api, pytest.raises(ServerUnreachable, match="no Ollama server") as caught:
        api.version()
    assert "ollama serve" in (caught.value.hint or "")


def test_a_server_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api = OllamaAPI(f"127.0.0.1:{silent.getsockname()[1]}", timeout=0.3)
        started = time.monotonic()
        with api, pytest.raises(ServerUnreachable, match=r"within 0\.3 s"):
            api.list()
        assert time.monotonic() - started < 5


def test_a_server_that_never_ends() -> None:
    stop = threading.Event()

    class Dripping(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            while not stop.wait(0.05):
                self.wfile.write(b" ")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with serving(Dripping) as url, OllamaAPI(url, timeout=0.5) as api:
        with pytest.raises(ServerUnreachable, match="does not come to an end"):
            api.version()
        stop.set()


def test_a_reply_without_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_BODY_BYTES", 1000)
    row = {
        "request": {"method": "GET", "path": "/api/version", "body": None},
        "response": {"status": 200, "content_type": "application/json", "body": json.dumps({"version": "9" * 2000})},
    }
    with replay([row]) as url, OllamaAPI(url) as api, pytest.raises(ServerUnreachable, match="more than 1,000 bytes"):
        api.version()


@pytest.mark.parametrize("body", ["<html>nginx</html>", "[]", "[" * 100_000, '{"models": 3}', ""])
def test_another_server_at_the_address(body: str) -> None:
    response = {"status": 200, "content_type": "text/html", "body": body}
    paths = ("/api/version", "/api/tags")
    rows = [{"request": {"method": "GET", "path": path, "body": None}, "response": response} for path in paths]
    with replay(rows) as url, OllamaAPI(url) as api:
        with pytest.raises(ServerError, match="does not answer like Ollama"):
            api.version()
        with pytest.raises(ServerError, match="does not answer like Ollama"):
            api.list()
