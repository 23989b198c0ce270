"""The verbs as a person runs them: what goes to stdout, what to stderr, which exit code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from migrate import resources
from migrate.chat_template import BATTERY
from tests.cli.conftest import Run

STORE = resources.directory("demo-store")


def test_help_and_version(run: Run) -> None:
    assert "inspect" in run("--help").out
    assert run("--version").out.startswith("migrate ")


def test_convert_with_the_files_that_start_it(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("convert", "support-bot", "--models-dir", STORE, "-o", out)
    wrong = run(*arguments, "--deploy", "compose,floppy")
    assert (wrong.code, "--deploy floppy: no such target" in wrong.err, out.exists()) == (2, True, False)
    assert run(*arguments, "--deploy", "compose,systemd").code == 0
    assert (out / "deploy" / "compose.yaml").is_file()
    assert "deploy/compose.yaml" not in (out / "migration.json").read_text(), "the bundle is what its digests say"


def test_list_of_the_store(run: Run) -> None:
    result = run("inspect", "--models-dir", STORE)
    assert result.code == 0
    assert "support-bot:latest" in result.out
    assert "next: migrate inspect" in result.err


def test_list_as_json(run: Run) -> None:
    rows = json.loads(run("inspect", "--models-dir", STORE, "--json").out)["models"]
    assert {row["name"] for row in rows} == {"support-bot:latest", "child-bot:latest", "q4-bot:latest"}
    assert all(row["movable"] for row in rows)


def test_inspect_json_has_the_documented_keys(run: Run) -> None:
    result = json.loads(run("inspect", "support-bot", "--models-dir", STORE, "--json").out)
    assert result["schema_version"] == 1
    assert (result["name"], result["architecture"], result["quantization"]) == ("support-bot:latest", "llama", "Q4_K_M")
    assert (result["parameter_count"], result["context_length"]) == (3541248, 2048)
    assert result["kv_bytes_per_token"] == 2 * 4 * 2 * 64 * 2  # k and v, layers, kv heads, head_dim, bytes
    assert result["prompt_path"] == "go_template"
    stop = next(p for p in result["parameters"] if p["name"] == "stop")
    assert stop == {"name": "stop", "value": ["<|im_end|>", "<|im_start|>", "User:"], "origin": "Modelfile"}
    assert {"item", "status", "source", "target", "reason", "action"} == set(result["findings"][0])
    assert result["movable"] is True


def test_names_are_found_whatever_their_case(run: Run) -> None:
    assert (
        json.loads(run("inspect", "Support-Bot:LATEST", "--models-dir", STORE, "--json").out)["architecture"] == "llama"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["inspect", "nope", "--models-dir", STORE], 2, "nope"),
        (["inspect", "x", "--models-dir", "/does/not/exist"], 2, "/does/not/exist"),
        (["inspect", "support-bot", "--models-dir", STORE, "--client", "grpc"], 2, "native or openai"),
        (["inspect", "support-bot", "--host", "garbage:::"], 2, "garbage:::"),
        (["inspect", "support-bot", "--models-dir", STORE, "--ollama-version", "abc"], 2, "abc"),
        (["template", "support-bot", "--models-dir", STORE, "-o", "no/such/file"], 2, "no/such/file"),
        (["convert", "support-bot", "--models-dir", STORE, "-o", "out", "--bind", "a\nb"], 2, "--bind"),
        (["convert", "support-bot", "--models-dir", STORE, "-o", "out", "--max-model-len", "9999"], 2, "2048"),
        (["convert", "support-bot", "--models-dir", STORE], 2, "-o DIR"),
        (["convert", "support-bot", "--models-dir", STORE, "-o", "out", "--dtype", "int3"], 2, "--dtype"),
        (["inspect", "../../etc/passwd", "--models-dir", STORE], 2, "passwd"),
        (["parity", "nowhere", "--source", "http://127.0.0.1:9", "--target", "http://127.0.0.1:9"], 2, "nowhere"),
    ],
)
def test_mistakes_are_explained(
    run: Run, arguments: list[object], code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.code == code
    assert "error: " in result.err
    assert words in result.err
    assert "Traceback" not in result.err
    assert list(tmp_path.iterdir()) == []


def test_json_errors_are_json(run: Run) -> None:
    error = json.loads(run("inspect", "nope", "--models-dir", STORE, "--json").out)["error"]
    assert error["exit_code"] == 2
    assert "nope" in error["message"]


def test_a_server_that_is_not_there_is_inconclusive(run: Run) -> None:
    result = run("inspect", "support-bot", "--host", "http://127.0.0.1:9")
    assert result.code == 4
    assert "127.0.0.1:9" in result.err


def test_debug_shows_the_traceback(run: Run) -> None:
    from migrate.errors import NotFound

    with pytest.raises(NotFound):
        run("inspect", "nope", "--models-dir", STORE, "--debug")


def test_dry_run_writes_nothing(run: Run, tmp_path: Path) -> None:
    result = run("convert", "support-bot", "--models-dir", STORE, "-o", tmp_path / "out", "--dry-run", "--json")
    content = json.loads(result.out)
    assert result.code == 0
    assert content["disk_bytes"] == 2 * 3541248
    assert content["findings"]
    assert list(tmp_path.iterdir()) == []


def test_template_prints_jinja(run: Run) -> None:
    result = run("template", "q4-bot", "--models-dir", STORE)
    assert result.code == 0
    assert "<|im_start|>" in result.out


def test_template_proves_itself(run: Run, tmp_path: Path) -> None:
    result = run("template", "support-bot", "--models-dir", STORE, "--prove", "-o", tmp_path / "t.jinja")
    assert result.code == 0
    assert result.out == ""
    assert f"{len(BATTERY)} of {len(BATTERY)} conversations" in result.err
    assert (tmp_path / "t.jinja").read_text().startswith("{#")
    assert run("template", "support-bot", "--models-dir", STORE, "-o", tmp_path / "t.jinja").code == 2


def test_template_of_a_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "chat.gotmpl"
    file.write_text("{{ range .Messages }}<{{ .Role }}>{{ .Content }}{{ end }}")
    content = json.loads(run("template", file, "--prove", "--json").out)
    assert {check["verdict"] for check in content["proof"]} == {"exact"}
    file.write_text("{{ range .Messages }}")
    result = run("template", file)
    assert result.code == 3
    assert "Traceback" not in result.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_verb_says_so(number: int) -> None:
    """A server that accepts and never answers keeps the verb busy; the signal ends it with a word and exit code 4."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        command = [sys.executable, "-m", "migrate", "inspect", "x", "--host", url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            connection, _ = server.accept()
            with connection:
                process.send_signal(number)
                _, words = process.communicate(timeout=30)
    assert process.returncode == 4
    assert "interrupted" in words
    assert "Traceback" not in words


def test_a_refused_dry_run_is_one_document(run: Run, tmp_path: Path) -> None:
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text("FROM support-bot\nRENDERER nobody\n")
    result = run("convert", modelfile, "--models-dir", STORE, "--dry-run", "--json")
    assert result.code == 3
    assert json.loads(result.out)["movable"] is False


def test_control_characters_of_a_model_are_shown_not_obeyed(run: Run, tmp_path: Path) -> None:
    blob = next(p for p in (STORE / "blobs").iterdir() if p.stat().st_size == 2072480)
    source = tmp_path / "a\x1b[31mb.gguf"
    shutil.copyfile(blob, source)
    result = run("inspect", source)
    assert result.code == 0
    assert "\x1b" not in result.out + result.err
    assert "a\\x1b[31mb" in result.out


def test_light_imports() -> None:
    """`import migrate` and `--help` pull in nothing heavy."""
    heavy = {
        "torch",
        "transformers",
        "vllm",
        "numpy",
        "gguf",
        "tokenizers",
        "rich",
        "pydantic",
        "httpx",
        "jinja2",
        "yaml",
    }
    code = f"import sys, migrate.cli.app; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_colour_when_piped() -> None:
    command = [sys.executable, "-m", "migrate", "inspect", "support-bot", "--models-dir", str(STORE)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"TERM": "xterm-256color"}
    )
    assert "\x1b" not in done.stdout + done.stderr
