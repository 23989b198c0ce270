"""`migrate demo`: the whole path on a small real model, every step by the same code the verbs use."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from migrate import resources
from migrate.bundle import format as bundle_format
from migrate.bundle import write
from migrate.errors import BadInput, UsageError
from migrate.mapping.migration import Migration, plan
from migrate.ollama.store import Store

if TYPE_CHECKING:
    from migrate.parity.report import ParityReport

DEFAULT_MODEL = "support-bot"
REPORT = "report.json"
Say = Callable[[str], None]
Busy = Callable[[str], AbstractContextManager[None]]
Server = TypeVar("Server")


@dataclass(frozen=True, slots=True)
class Demo:
    """Where things are, and what came out. `report` is None offline."""

    model: str
    bundle: Path
    migration: Migration
    proofs: tuple[str, ...]
    report: ParityReport | None = None
    report_path: Path | None = None


def run(
    out: Path,
    say: Say,
    *,
    model: str = DEFAULT_MODEL,
    offline: bool = False,
    force: bool = False,
    busy: Busy = lambda label: nullcontext(),
) -> Demo:
    """inspect, convert, prove; then, unless `offline`, start llama.cpp and vLLM and compare them.

    Writes `out/bundle` and `out/proof`. `busy` wraps what takes a while (a sign of life). Raises what the verbs raise.
    """
    _make_room(out, force=force)
    store = Store(resources.directory("demo-store"))
    with _step(say, f"inspect {model} (a real Ollama store: {store.path})"):
        source = store.load(model)
        migration = plan(source)
        counts = ", ".join(f"{n} {status}" for status, n in migration.ledger.counts().items())
        say(f"  {source.gguf.architecture if source.gguf else '?'}, prompt path {migration.prompt.path}; {counts}")
    bundle = out / "bundle"
    with _step(say, f"convert it to {bundle}"):
        written = write.write(migration, bundle, force=force)
        say(f"  {written.weight_bytes / 1e6:.1f} MB of {migration.dtype} weights, {len(written.manifest.files)} files")
    with _step(say, "prove what needs no server"):
        proofs = prove_offline(migration, bundle)
        for proof in proofs:
            say(f"  {proof}")
    if offline:
        return Demo(model, bundle, migration, proofs)
    report, path = _with_servers(migration, bundle, out / "proof", say, busy)
    return Demo(model, bundle, migration, proofs, report, path)


def prove_offline(migration: Migration, bundle: Path) -> tuple[str, ...]:
    """Checks of a written bundle that need no server. Raises BadInput at the first that fails."""
    return (_prove_template(migration, bundle), _prove_weights(migration, bundle), _prove_files(bundle))


def _prove_template(migration: Migration, bundle: Path) -> str:
    """The Jinja on disk against our Go interpreter, conversation by conversation."""
    from migrate.chat_template import prove

    model = migration.model
    jinja = (bundle / "model" / "chat_template.jinja").read_text(encoding="utf-8")
    proof = prove(model.template or "", jinja, system=model.system, messages=model.messages)
    if wrong := proof.of("wrong"):
        raise BadInput(f"the chat template is not what Ollama renders: {wrong[0].describe()}")
    same, total = len(proof.of("exact")), len(proof.checks)
    return f"chat template: {same} of {total} conversations render as in Ollama, byte for byte"


def _prove_weights(migration: Migration, bundle: Path) -> str:
    """Every written tensor against gguf-py's dequantization, another implementation than ours, rounded once."""
    from migrate.checkpoint.verify import verify_weights

    header, layout = migration.model.gguf, migration.layout
    assert header is not None
    assert layout is not None
    count = verify_weights(header, layout, bundle / "model")
    return f"weights: {count} tensors equal gguf-py's dequantization rounded to {migration.dtype}, bit for bit"


def _prove_files(bundle: Path) -> str:
    import hashlib

    manifest = bundle_format.read(bundle)
    for name, entry in manifest.files.items():
        with (bundle / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                raise BadInput(f"{bundle / name} is not the file {bundle_format.FILE_NAME} describes")
    return f"files: {len(manifest.files)} as {bundle_format.FILE_NAME} lists them"


def _with_servers(migration: Migration, bundle: Path, proof: Path, say: Say, busy: Busy) -> tuple[ParityReport, Path]:
    from migrate.engines import llamacpp, provision, vllm
    from migrate.parity.render import FILES, write_all
    from migrate.parity.run import run as parity

    header = migration.model.gguf
    assert header is not None
    proof.mkdir(parents=True, exist_ok=True)
    for name in FILES.values():
        (proof / name).unlink(missing_ok=True)
    with _step(say, "vLLM (CPU build) and llama.cpp"):
        engines = provision.ensure(echo=say)
    with (
        _started(
            say,
            busy,
            "start llama.cpp on the original GGUF",
            llamacpp.serve(header.path, python=str(engines.python), log=proof / "llamacpp.log"),
        ) as source,
        _started(
            say,
            busy,
            "start vLLM on the bundle: serve.sh (a minute on two cores)",
            vllm.serve(
                bundle,
                vllm=str(engines.vllm),
                args=vllm.COMPARE_ARGS,
                env=vllm.CPU_ENV,
                log=proof / "vllm.log",
            ),
        ) as target,
        _step(say, "parity: files, prompt, token ids, noise, log-probabilities, greedy text, behaviours"),
    ):
        report = parity(bundle, source, target, progress=lambda layer: say(f"  {layer.name.value}: {layer.summary}"))
    write_all(report, proof)
    return report, proof / REPORT


@contextmanager
def _started(say: Say, busy: Busy, what: str, server: AbstractContextManager[Server]) -> Iterator[Server]:
    """Enters a server's context as a step with its own time."""
    with ExitStack() as stack:
        with _step(say, what), busy("waiting for the first token"):
            engine = stack.enter_context(server)
        yield engine


@contextmanager
def _step(say: Say, what: str) -> Iterator[None]:
    say(f"\n== {what}")
    started = time.perf_counter()
    yield
    say(f"  done in {time.perf_counter() - started:.1f} s")


def _make_room(out: Path, *, force: bool) -> None:
    bundle = out / "bundle"
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} exists and is not a directory", hint="choose another -o")
    if bundle.is_dir():
        write.check_output(bundle, force=force)
    out.mkdir(parents=True, exist_ok=True)
