"""MIGRATION.md: the steps with this model's values, commands that exist, and nginx files that do what it says."""

from __future__ import annotations

import http.client
import os
import queue
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from docs.generate import VERBS
from migrate import resources
from migrate.bundle.runbook import reachable, runbook
from migrate.mapping.migration import Choices, Migration, plan
from migrate.ollama.reference import load
from migrate.ollama.store import Store
from tests.architectures.families import ROOT
from tests.cli.conftest import Run, run
from tests.ollama.replay import serving

__all__ = ["run"]

STEPS = [
    "Before",
    "Deploy beside Ollama",
    "Parity",
    "Shadow",
    "Canary",
    "Cut over",
    "Watch",
    "Roll back",
    "Decommission",
]


def migration(name: str = "support-bot", **choices: object) -> Migration:
    return plan(Store(resources.directory("demo-store")).load(name), Choices(**choices))  # type: ignore[arg-type]


def embedding() -> Migration:
    return plan(load(str(ROOT / "nomic_bert" / "model.gguf")), Choices(served_name="nomic"))


def text(planned: Migration) -> str:
    return runbook(planned, list(planned.ledger), "ollama-to-vllm 0.0")


SUPPORT = text(migration())
NOMIC = text(embedding())


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document, re.DOTALL)


# ---- what it says ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [SUPPORT, NOMIC], ids=["chat", "embedding"])
def test_steps_in_order(document: str) -> None:
    assert re.findall(r"^## \d\. (.*)$", document, re.MULTILINE) == STEPS
    assert re.findall(r"^## (\D.*)$", document, re.MULTILINE)[0] == "Clients"
    assert document.endswith("|\n")


@pytest.mark.parametrize("document", [SUPPORT, NOMIC], ids=["chat", "embedding"])
def test_commands_and_anchors_exist(document: str) -> None:
    verbs = {verb.split(" ")[0] for verb in VERBS}
    assert set(re.findall(r"\bmigrate ([a-z]+)", document)) <= verbs
    headings = re.findall(r"^#+ (.*)$", document, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", document)) <= anchors
    assert not re.search(r"\{\{|\{%|None\b", re.sub(r"\| TEMPLATE .*", "", document))


@pytest.mark.parametrize("document", [SUPPORT, NOMIC], ids=["chat", "embedding"])
def test_options_of_commands_exist(document: str, run: Run) -> None:
    lines = [line for block in blocks(document, "") for line in block.splitlines() if line.startswith("migrate ")]
    assert len(lines) >= 3
    for line in lines:
        verb = max((v for v in VERBS if line.startswith(f"migrate {v} ")), key=len)
        page = run(*verb.split(), "--help").out
        assert [option for option in re.findall(r"--[a-z-]+", line) if f"{option} " not in page] == []


@pytest.mark.parametrize("document", [SUPPORT, NOMIC], ids=["chat", "embedding"])
def test_tables_are_whole(document: str) -> None:
    """Every row has as many cells as the head of its table."""
    width = 0
    for line in document.splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        cells = len(re.findall(r"(?<!\\)\|", line))
        width = width or cells
        assert cells == width, line


def test_values_are_those_of_this_model() -> None:
    for words in (
        "support-bot, support-bot:latest at http://127.0.0.1:8000/v1",
        "7.08 MB in bfloat16",
        "1,024 tokens, prompt and answer together; its cache takes 2.1 MB for one",
        "temperature 0.2, top_p 0.95, top_k 20, min_p 0.05, max_tokens 64: what clients of `/api/chat` saw",
        "PYTHONPATH=. vllm serve --config serve.yaml",
        "ollama stop support-bot:latest",
        "the SYSTEM of this model (70 characters)",
        "`stop` | at most 16 texts",
        "send it back so, with `id` and `type`",
    ):
        assert words in SUPPORT, words


def test_address_client_and_stops_follow_the_choices() -> None:
    moved = text(migration(host="0.0.0.0", port=9000, client="openai"))
    assert "http://127.0.0.1:9000/v1" in moved
    assert "server 127.0.0.1:9000;" in moved
    assert "temperature 1.0, top_p 1.0" in moved
    assert "are those of Ollama's `/v1`, not those of `/api/chat`" in moved
    assert [reachable(host) for host in ("0.0.0.0", "::", "::1", "gpu")] == ["127.0.0.1", "127.0.0.1", "[::1]", "gpu"]


def test_a_model_without_tools_says_so() -> None:
    assert "this bundle has no tool parser" in text(migration("q4-bot"))
    assert "no tool parser" not in SUPPORT


def test_what_an_embedding_model_does_not_have() -> None:
    assert "migrate parity . --source" in NOMIC
    assert "the vectors of both" in NOMIC
    for word in ("chat/completions", "throughput", "temperature", "kv_cache", "Prompts\n", "tool_calls"):
        assert word not in NOMIC, word
    assert "| `dimensions` |" in NOMIC


def test_the_ledger_has_every_finding_and_what_to_read_first_comes_first() -> None:
    planned = migration()
    table = SUPPORT.split("## What moves, and how well")[1]
    assert len(re.findall(r"^\| (?!what \||---)", table, re.MULTILINE)) == len(list(planned.ledger))
    assert re.findall(r"^### (\w+)", table, re.MULTILINE) == ["Approximate", "Dropped", "Equivalent", "Exact"]


@pytest.mark.parametrize(("name", "document"), [("chat", SUPPORT), ("embedding", NOMIC)])
def test_golden(name: str, document: str) -> None:
    """The steps, without the ledger that others answer for. `MIGRATE_GOLDEN=write pytest ...` writes them anew."""
    path = Path(__file__).parent / "data" / f"MIGRATION-{name}.md"
    steps = document.split("## What moves, and how well")[0]
    if os.environ.get("MIGRATE_GOLDEN") == "write":
        path.write_text(steps, encoding="utf-8")
    assert steps == path.read_text(encoding="utf-8")


def test_same_bytes_again() -> None:
    assert text(migration()) == SUPPORT


def test_names_of_a_file_stay_out_of_commands(tmp_path: Path) -> None:
    blob = Store(resources.directory("demo-store")).load("q4-bot").gguf_path
    assert blob is not None
    source = tmp_path / "my $(model).gguf"
    shutil.copyfile(blob, source)
    document = text(plan(load(str(source))))
    assert "$(" not in "".join(blocks(document, ""))
    assert str(tmp_path) not in document


# ---- what nginx says ------------------------------------------------------------------------------------------------


@pytest.fixture
def nginx() -> str:
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
    if (found := shutil.which("nginx", path=path)) is None:
        pytest.skip("NGINX MISSING (Debian: apt-get install nginx-light): the proxy's files were not tried")
    return found


SHADOW, CANARY = blocks(SUPPORT, "nginx")
UPSTREAMS = SHADOW.split("server {")[0]


class Backend:
    """A server that answers with its name and keeps the paths it was asked for."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self.asked: queue.Queue[tuple[str, str | None]] = queue.Queue()
        backend = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                backend.asked.put((self.path, self.headers.get("host")))
                self.send_response(200)
                self.send_header("content-length", str(len(name)))
                self.end_headers()
                self.wfile.write(name.encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.port = int(stack.enter_context(serving(Handler)).rpartition(":")[2])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def proxy(nginx: str, content: str, root: Path, ollama: int, vllm: int) -> Iterator[int]:
    """nginx with one of the documented files, on other ports; gives its own."""
    port = free_port()
    ports = {"11434": ollama, "8000": vllm, "8080": port}
    content = re.sub(r"(?<=127\.0\.0\.1:)\d+", lambda found: str(ports[found[0]]), content)
    content = content.replace("/var/log/nginx/", f"{root}/")
    places = "".join(
        f"{kind}_temp_path {root}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = root / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(
        f"{user} pid {root}/pid; daemon off; master_process off; error_log {root}/error.log;"
        f"events {{}} http {{ access_log off; {places}\n{content}\n}}"
    )
    command = [nginx, "-p", str(root), "-c", str(config)]
    done = subprocess.run([*command, "-t"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    gone = child.poll() is not None or time.monotonic() > deadline
                    assert not gone, (root / "error.log").read_text()
            yield port
        finally:
            child.terminate()


def ask(port: int, path: str, key: str = "") -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", path, b"{}", {"authorization": f"Bearer {key}"} if key else {})
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read().decode()
    finally:
        connection.close()


@pytest.fixture
def servers() -> Iterator[tuple[Backend, Backend]]:
    with ExitStack() as stack:
        yield Backend("ollama", stack), Backend("vllm", stack)


def test_the_shadow_gets_a_copy_and_clients_get_ollama(
    nginx: str, servers: tuple[Backend, Backend], tmp_path: Path
) -> None:
    ollama, vllm = servers
    with proxy(nginx, SHADOW, tmp_path, ollama.port, vllm.port) as port:
        assert ask(port, "/v1/chat/completions?x=1") == "ollama"
        assert ollama.asked.get(timeout=10) == ("/v1/chat/completions?x=1", "localhost")
        assert vllm.asked.get(timeout=10)[0] == "/v1/chat/completions?x=1"
        assert ask(port, "/api/chat") == "ollama"
        assert ask(port, "/v1/completions") == "ollama"
        assert vllm.asked.get(timeout=10)[0] == "/v1/completions"  # and not /api/chat
    assert '"POST /v1/' in (tmp_path / "shadow.log").read_text()


def test_the_canary_takes_its_share_and_keeps_each_client(
    nginx: str, servers: tuple[Backend, Backend], tmp_path: Path
) -> None:
    ollama, vllm = servers
    with proxy(nginx, UPSTREAMS + CANARY, tmp_path, ollama.port, vllm.port) as port:
        sides = {key: ask(port, "/v1/chat/completions", key) for key in map(str, range(300))}
        assert 3 <= list(sides.values()).count("vllm") <= 35  # 5 %; the hash has no chance in it
        assert all(ask(port, "/v1/completions", key) == side for key, side in list(sides.items())[:40])
        assert {ask(port, "/api/chat", key) for key, side in sides.items() if side == "vllm"} == {"ollama"}


@pytest.mark.parametrize("side", ["vllm", "ollama"])
def test_cut_over_and_roll_back_are_one_line(
    nginx: str, servers: tuple[Backend, Backend], tmp_path: Path, side: str
) -> None:
    ollama, vllm = servers
    assert f"`*  {side};` alone between the braces" in SUPPORT
    changed, count = re.subn(
        r"(\$server_of_choice \{).*?\}", rf"\1\n    *  {side};\n}}", CANARY, count=1, flags=re.DOTALL
    )
    assert count == 1
    with proxy(nginx, UPSTREAMS + changed, tmp_path, ollama.port, vllm.port) as port:
        assert {ask(port, "/v1/chat/completions", str(key)) for key in range(50)} == {side}
        assert ask(port, "/api/chat") == "ollama"
