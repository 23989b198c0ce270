"""Why the GPU idles: judgements from tables of facts, and facts from recordings, processes and units."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from migrate.mapping.diagnosis import INSTEAD, diagnosis
from migrate.ollama.api import OllamaAPI
from migrate.ollama.diagnosis import Facts, Gpu, Loaded, Runner, Setting, Symptom, diagnose
from migrate.ollama.server_process import gpus, is_local, observe, read_unit
from tests.cli.conftest import Run, run
from tests.ollama.replay import recordings, replay

__all__ = ["run"]

GB = 10**9
CHAT = Loaded("chat:latest", "llama", 8 * GB, 8 * GB, 4096)
HALF = Loaded("big:latest", "llama", 40 * GB, 24 * GB, 32768)
CPU = Loaded("slow:latest", "llama", 8 * GB, 0, 4096)
EYES = Loaded("eyes:latest", "qwen3vlmoe", 8 * GB, 8 * GB, 4096)


def facts(*loaded: Loaded, known: bool = True, **more: object) -> Facts:
    names = {key: value for key, value in more.items() if key.isupper()}
    rest = {key: value for key, value in more.items() if not key.isupper()}
    environment = {name: Setting(str(value), "ollama.service") for name, value in names.items()}
    return Facts("http://127.0.0.1:11434", "0.33.0", loaded, environment, known, **rest)  # type: ignore[arg-type]


CASES = [
    # what is seen, topic, severity, words of the evidence or the meaning
    (facts(CHAT), "parallel", "problem", "OLLAMA_NUM_PARALLEL is not set (default 1)"),
    (facts(CHAT, OLLAMA_NUM_PARALLEL=1), "parallel", "problem", "OLLAMA_NUM_PARALLEL=1 (ollama.service)"),
    (facts(CHAT, OLLAMA_NUM_PARALLEL=0), "parallel", "problem", "one request at a time"),
    (facts(CHAT, OLLAMA_NUM_PARALLEL="many"), "parallel", "problem", "one request at a time"),
    (facts(CHAT, OLLAMA_NUM_PARALLEL='"4"'), "parallel", "note", "at most 4 requests"),
    (facts(CHAT, known=False), "parallel", "unknown", "could not be read"),
    (facts(CHAT, known=False, OLLAMA_NUM_PARALLEL=8), "parallel", "note", "at most 8 requests"),
    (facts(CHAT, known=False, runners=(Runner(7, 1, 4096),)), "parallel", "problem", "process 7"),
    (facts(CHAT, OLLAMA_NUM_PARALLEL=4, runners=(Runner(7, 2, 8192),)), "parallel", "note", "at most 2 requests"),
    (facts(EYES, OLLAMA_NUM_PARALLEL=4), "parallel", "problem", "eyes:latest (qwen3vlmoe)"),
    (facts(CHAT), "cpu", "fine", "all of it on the GPU"),
    (facts(HALF), "cpu", "problem", "big:latest: 40% on the CPU"),
    (facts(CPU), "cpu", "problem", "no GPU computes"),
    (facts(), "swapping", "note", "no model is loaded"),
    (facts(CHAT, HALF, CPU), "swapping", "problem", "as many as may be (3)"),
    (facts(CHAT, HALF, gpus=(Gpu("A", 0, 0, GB),) * 2), "swapping", "note", "2 models share"),
    (facts(CHAT, HALF, OLLAMA_MAX_LOADED_MODELS=2), "swapping", "problem", "as many as may be (2)"),
    (facts(CHAT), "swapping", "note", "OLLAMA_KEEP_ALIVE is not set (default 5m)"),
    (facts(CHAT, OLLAMA_KEEP_ALIVE="0"), "swapping", "problem", "every request reads the weights again"),
    (facts(CHAT), "context", "note", "another machine, another context"),
    (facts(CHAT, OLLAMA_NUM_PARALLEL=4), "context", "note", "4,096 tokens x 4 slots = 16,384, 2.15 GB of cache"),
    (facts(CHAT), "queue", "note", "OLLAMA_MAX_QUEUE is not set (default 512)"),
    (facts(CHAT, OLLAMA_KV_CACHE_TYPE="q8_0"), "cache", "note", "OLLAMA_KV_CACHE_TYPE=q8_0"),
    (facts(CHAT, runners=(Runner(7, 1, 4096, "q4_0"),)), "cache", "note", "q4_0"),
    (facts(CHAT, OLLAMA_FLASH_ATTENTION="false"), "cache", "problem", "slower"),
    (facts(CHAT, gpus=(Gpu("L4", 12, 5 * GB, 24 * GB),)), "gpu", "note", "GPU 0 (L4): 12% busy, 5.0 of 24.0 GB"),
    (facts(CHAT, gpus=(Gpu("L4", 12, 5 * GB, 24 * GB),)), "gpu", "note", "much of its memory is free"),
    (facts(CHAT, gpus=(Gpu("L4", 0, 0, GB),) * 2), "gpu", "note", "the others idle"),
    (facts(CHAT, LLAMA_ARG_FIT="off"), "environment", "note", "LLAMA_ARG_FIT=off"),
    (facts(CHAT, OLLAMA_GPU_OVERHEAD=1024), "environment", "note", "leaves free"),
]


@pytest.mark.parametrize(("seen", "topic", "severity", "words"), CASES)
def test_judgements(seen: Facts, topic: str, severity: str, words: str) -> None:
    found = diagnose(seen, {"chat:latest": 131072})
    texts = [f"{s.evidence} | {s.meaning}" for s in found if (s.topic, s.severity) == (topic, severity)]
    assert any(words in text for text in texts), found


SILENT = [
    (facts(CHAT, OLLAMA_FLASH_ATTENTION="1"), "cache"),
    (facts(CHAT, OLLAMA_FLASH_ATTENTION=""), "cache"),
    (facts(CHAT, OLLAMA_KV_CACHE_TYPE="f16"), "cache"),
    (facts(CHAT), "gpu"),
    (facts(CHAT, OLLAMA_GPU_OVERHEAD=0), "environment"),
    (facts(CHAT, OLLAMA_KEEP_ALIVE="-1"), "swapping"),
    (facts(Loaded("a:latest", "llama", GB, GB, 4096, forever=True)), "swapping"),
    (facts(CHAT, known=False), "queue"),
]


@pytest.mark.parametrize(("seen", "topic"), SILENT)
def test_nothing_is_said_where_nothing_is_wrong(seen: Facts, topic: str) -> None:
    assert [s for s in diagnose(seen) if s.topic == topic] == []


def test_an_old_version_chose_its_slots() -> None:
    old = Facts("x", "0.9.5", (CHAT,), {}, True)
    assert [s.severity for s in diagnose(old) if s.topic == "parallel"] == ["unknown"]


def test_problems_come_first_and_each_has_an_answer() -> None:
    found = diagnosis(facts(CHAT, HALF, known=False), None)["symptoms"]
    order = [symptom["severity"] for symptom in found]
    assert order == sorted(order, key=["problem", "unknown", "note", "fine"].index)
    assert all(symptom["vllm"] for symptom in found)
    assert {s.topic for seen, *_ in CASES for s in diagnose(seen)} == set(INSTEAD)


# ---- a server -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["ollama", "ollama/modern"])
def server(shared: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    with replay(recordings(shared / str(request.param) / "recordings.jsonl")) as url:
        yield url


def symptoms(seen: Facts) -> dict[str, list[Symptom]]:
    found: dict[str, list[Symptom]] = {}
    for symptom in diagnose(seen):
        found.setdefault(symptom.topic, []).append(symptom)
    return found


def test_a_real_server_on_a_cpu(server: str, tmp_path: Path) -> None:
    with OllamaAPI(server) as api:
        seen = observe(api, proc=tmp_path, units=(), environment={})
    assert seen.version == "0.33.0-rc2"
    assert seen.loaded is not None
    assert len(seen.loaded) == 3
    assert not seen.environment_known
    found = symptoms(seen)
    assert found["cpu"][0].severity == "problem"
    assert "no GPU computes" in found["cpu"][0].meaning
    names = {model.name for model in seen.loaded}
    if "qwen35-bot:latest" in names:  # and a bert: both are never parallel
        assert "embed-bot:latest (bert), qwen35-bot:latest (qwen35)" in found["parallel"][0].evidence
    else:
        assert "support-bot:latest: 1,024 tokens" in found["context"][0].evidence


def test_inspect_tells(server: str, run: Run) -> None:
    rows = json.loads(run("inspect", "--host", server, "--json").out)
    assert {s["topic"] for s in rows["diagnosis"]["symptoms"]} >= {"cpu", "parallel", "context"}
    shown = run("inspect", "--host", server)
    assert shown.code == 0
    assert "as it runs" in shown.out
    assert "100% on the CPU" in shown.out


def test_inspect_without_a_server_has_no_diagnosis(run: Run) -> None:
    from migrate import resources

    store = resources.directory("demo-store")
    assert json.loads(run("inspect", "support-bot", "--models-dir", store, "--json").out)["diagnosis"] is None


def test_a_server_that_does_not_tell() -> None:
    with replay([]) as url, OllamaAPI(url) as api:
        seen = observe(api, units=(), environment={"OLLAMA_NUM_PARALLEL": "1", "OLLAMA_API_KEY": "secret"})
    assert seen.loaded is None
    assert "did not tell" in seen.notes[0]
    assert set(seen.environment) == {"OLLAMA_NUM_PARALLEL"}
    assert symptoms(seen)["parallel"][0].evidence == "OLLAMA_NUM_PARALLEL=1 (this shell)"


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:11434", True),
        ("http://[::1]:1", True),
        ("http://localhost:1", True),
        ("http://10.0.0.7:11434", False),
        ("http://gpu.example:11434", False),
    ],
)
def test_which_addresses_are_this_machine(url: str, local: bool) -> None:
    assert is_local(url) is local


# ---- its process ----------------------------------------------------------------------------------------------------


def process(proc: Path, pid: int, command: list[str], parent: int = 1, **environment: str) -> Path:
    here = proc / str(pid)
    here.mkdir(parents=True)
    (here / "cmdline").write_bytes(b"".join(part.encode() + b"\0" for part in command))
    (here / "environ").write_bytes(b"".join(f"{k}={v}\0".encode() for k, v in environment.items()))
    (here / "stat").write_text(f"{pid} (a ) b) S {parent} 1 1")
    (here / "cgroup").write_text("0::/system.slice/ollama.service\n")
    return here


def looked(proc: Path, units: tuple[Path, ...] = (), **environment: str) -> Facts:
    with OllamaAPI("127.0.0.1:9") as api:  # nobody listens: only the machine is looked at
        return observe(api, proc=proc, units=units, environment=environment)


def test_the_process_of_the_server_is_found_by_its_port(tmp_path: Path) -> None:
    process(tmp_path, 10, ["/usr/bin/ollama", "serve"], OLLAMA_NUM_PARALLEL="3")  # at 11434
    process(tmp_path, 11, ["ollama", "serve"], OLLAMA_HOST="0.0.0.0:9", OLLAMA_NUM_PARALLEL="5", HF_TOKEN="secret")
    process(tmp_path, 12, ["ollama", "run", "x"], OLLAMA_HOST="0.0.0.0:9", OLLAMA_NUM_PARALLEL="7")
    seen = looked(tmp_path, OLLAMA_NUM_PARALLEL="9", OLLAMA_KEEP_ALIVE="1h")
    assert seen.environment == {"OLLAMA_NUM_PARALLEL": Setting("5", "environment of process 11")}
    assert seen.environment_known


def test_another_server_is_not_this_one(tmp_path: Path) -> None:
    process(tmp_path, 10, ["ollama", "serve"], OLLAMA_NUM_PARALLEL="3")
    seen = looked(tmp_path)
    assert (seen.environment, seen.environment_known) == ({}, False)
    assert any("could be told to be this server" in note for note in seen.notes)


def test_runners_tell_their_slots(tmp_path: Path) -> None:
    process(tmp_path, 10, ["ollama", "serve"], OLLAMA_HOST=":9")
    llama = ["/usr/lib/ollama/llama-server", "--model", "/blobs/sha256-1", "-c", "16384", "-np", "4"]
    process(tmp_path, 20, [*llama, "--cache-type-k", "q8_0", "--flash-attn", "on"], parent=10)
    process(tmp_path, 21, ["ollama", "runner", "--ctx-size", "2048", "--parallel", "2"], parent=10)
    process(tmp_path, 22, [*llama[:-1], "9"], parent=1)  # somebody else's
    process(tmp_path, 23, ["llama-server", "-np", "x" * 100, "-c", ""], parent=10)
    assert looked(tmp_path).runners == (
        Runner(20, 4, 16384, "q8_0", "on"),
        Runner(21, 2, 2048, None, None),
        Runner(23, None, None, None, None),
    )


def test_garbage_in_proc_is_no_error(tmp_path: Path) -> None:
    for pid, content in ((1, b""), (2, b"\xff\xfe\0\0"), (3, b"ollama\0")):
        process(tmp_path, pid, [])
        (tmp_path / str(pid) / "cmdline").write_bytes(content)
    process(tmp_path, 4, ["ollama", "serve"], OLLAMA_HOST="::: no address")
    assert looked(tmp_path).environment == {}


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_real_process(tmp_path: Path) -> None:
    (tmp_path / "serve").write_text("import sys; sys.stdin.read()")
    environment = {**os.environ, "OLLAMA_HOST": "127.0.0.1:9", "OLLAMA_NUM_PARALLEL": "6"}
    with subprocess.Popen(
        ["ollama", "serve"], executable=sys.executable, cwd=tmp_path, env=environment, stdin=subprocess.PIPE
    ) as child:
        seen = looked(Path("/proc"))
        child.communicate()
    assert seen.environment["OLLAMA_NUM_PARALLEL"] == Setting("6", f"environment of process {child.pid}")


@pytest.mark.parametrize("broken", ["missing", "no driver", "fine"])
def test_gpus(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    class NVMLError(Exception):
        pass

    def start() -> None:
        if broken == "no driver":
            raise NVMLError

    ended: list[bool] = []
    library = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=start,
        nvmlShutdown=lambda: ended.append(True),
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda device: b"NVIDIA L4",
        nvmlDeviceGetMemoryInfo=lambda device: SimpleNamespace(used=5 * GB, total=24 * GB),
        nvmlDeviceGetUtilizationRates=lambda device: SimpleNamespace(gpu=12),
    )
    monkeypatch.setitem(sys.modules, "pynvml", None if broken == "missing" else library)
    assert gpus() == ((Gpu("NVIDIA L4", 12, 5 * GB, 24 * GB),) if broken == "fine" else None)
    assert ended == ([True] if broken == "fine" else [])


# ---- its service ----------------------------------------------------------------------------------------------------

UNIT = """\
[Unit]
Description=Ollama
Environment=OLLAMA_NUM_PARALLEL=99

[Service]
ExecStart=/usr/local/bin/ollama serve
Environment="PATH=/usr/bin" "OLLAMA_KEEP_ALIVE=24h" OLLAMA_HOST=0.0.0.0:9
Environment=OLLAMA_NUM_PARALLEL=2 \\
  OLLAMA_MAX_QUEUE=64
"""


def unit(root: Path, text: str = UNIT, **drop_ins: str) -> Path:
    path = root / "ollama.service"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    for name, content in drop_ins.items():
        (root / "ollama.service.d").mkdir(exist_ok=True)
        (root / "ollama.service.d" / f"{name}.conf").write_text(content)
    return path


def test_a_unit_with_drop_ins(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# a comment\nOLLAMA_MAX_QUEUE='7'\n")
    path = unit(
        tmp_path,
        b_override="[Service]\nEnvironment=OLLAMA_NUM_PARALLEL=4\n",
        a_first=f"[Service]\nEnvironment=OLLAMA_NUM_PARALLEL=3\nEnvironmentFile=-{tmp_path}/env\n",
    )
    read = read_unit(path, (path,))
    assert read is not None
    variables, complete = read
    assert complete
    assert variables["OLLAMA_NUM_PARALLEL"] == "4"
    assert variables["OLLAMA_KEEP_ALIVE"] == "24h"
    assert variables["OLLAMA_MAX_QUEUE"] == "7"


def test_an_empty_assignment_takes_back(tmp_path: Path) -> None:
    path = unit(tmp_path, x="[Service]\nEnvironment=\nEnvironment=A=1\n")
    assert read_unit(path, (path,)) == ({"A": "1"}, True)


def test_a_file_that_cannot_be_read_leaves_doubt(tmp_path: Path) -> None:
    path = unit(tmp_path, f"[Service]\nEnvironmentFile={tmp_path}/nowhere\n")
    assert read_unit(path, (path,)) == ({}, False)
    assert read_unit(tmp_path / "other.service") is None


def test_units_count_where_the_process_may_not_be_read(tmp_path: Path) -> None:
    here = process(tmp_path / "proc", 10, ["ollama", "serve"])
    (here / "environ").unlink()  # as good as unreadable, for root, too
    path = unit(tmp_path / "etc")
    seen = looked(tmp_path / "proc", (path,), OLLAMA_NUM_PARALLEL="9")
    assert seen.environment["OLLAMA_NUM_PARALLEL"] == Setting("2", "ollama.service")
    assert seen.environment_known
    (here / "cgroup").write_text("0::/user.slice\n")  # started by hand: the unit says nothing of it
    by_hand = looked(tmp_path / "proc", (path,))
    assert not by_hand.environment_known
    assert any("another user" in note for note in by_hand.notes)
