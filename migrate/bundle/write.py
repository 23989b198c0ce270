"""Writes a bundle: built in a directory beside its place and renamed, so that there is never half of one."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from migrate import __version__, resources
from migrate.bundle import format as bundle_format
from migrate.bundle.runbook import runbook
from migrate.errors import BadInput, MigrateError, OutputExists, Refused, StoreError, UsageError
from migrate.findings import Finding
from migrate.gguf.header import GGUFHeader
from migrate.mapping import adapters
from migrate.mapping.migration import Migration
from migrate.ollama.options import CURRENT_VERSION
from migrate.original.prove import Proof
from migrate.vllm import serve, versions

GENERATOR = f"ollama-to-vllm {__version__}"
Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


@dataclass(frozen=True, slots=True)
class Written:
    """A finished bundle. `weight_bytes` counts the safetensors files."""

    path: Path
    manifest: bundle_format.Manifest
    weight_bytes: int


def write(migration: Migration, out: Path, *, force: bool = False, progress: Progress | None = None) -> Written:
    """Converts the weights and writes every file of the bundle.

    Raises:
        Refused: the ledger has refused findings; nothing is written.
        OutputExists: `out` exists and `force` is not set, or is no bundle of ours.
        UsageError: `out` cannot be written, or the disk is too small.
    """
    check_movable(migration)
    check_output(out, force=force)
    with _beside(out) as building:
        _write_into(building, migration, progress)
    manifest = bundle_format.read(out)
    weights = sum(entry.size for name, entry in manifest.files.items() if name.endswith(".safetensors"))
    return Written(out, manifest, weights)


def check_movable(migration: Migration) -> None:
    if refused := migration.refused:
        first, *others = refused
        more = f" (and {len(others)} more, see `migrate inspect`)" if others else ""
        raise Refused(f"{first.item}: {first.reason}{more}", hint=first.action or None)


def check_output(out: Path, *, force: bool) -> None:
    """Before any work: may `out` be written?"""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise OutputExists(f"{out} exists and is not a directory")
    if out.is_dir() and any(out.iterdir()):
        if not force:
            raise OutputExists(f"{out} exists", hint="choose another -o, or pass --force to replace it")
        if not (out / bundle_format.FILE_NAME).is_file():
            raise OutputExists(f"{out} is not a bundle, so --force does not replace it", hint="remove it yourself")
    if not out.resolve().parent.is_dir():
        raise UsageError(f"{out.resolve().parent} is no directory", hint="create it first")


def _write_into(root: Path, migration: Migration, progress: Progress | None) -> None:
    header = migration.model.gguf
    if header is None or (migration.generation is None and not migration.pooling):
        raise Refused("the weights are not on this machine")
    _check_sources(migration)
    model_dir = root / "model"
    model_dir.mkdir()
    if migration.model.checkpoint is not None:
        from migrate.checkpoint.passthrough import copy_checkpoint

        copy_checkpoint(migration.model.checkpoint, model_dir, progress=progress)
        weights_findings: Sequence[Finding] = ()
        if not (model_dir / "tokenizer.json").exists() and header.get("tokenizer.ggml.tokens"):
            from migrate.checkpoint.tokenizer import write_tokenizer

            _, weights_findings = write_tokenizer(header, model_dir)
    else:
        weights_findings = _convert(migration, header, model_dir, progress)
    findings = list(dict.fromkeys([*migration.ledger, *weights_findings, *_write_adapter(root, migration)]))
    if migration.generation is not None:
        _text(model_dir / "generation_config.json", _json(migration.generation.to_dict()))
    if migration.chat_template is not None:
        _text(model_dir / "chat_template.jinja", migration.chat_template)
    for name, text in launch_files(migration).items():
        _text(root / name, text, executable=name.endswith(".sh"))
    if migration.model.licenses:
        _text(root / "LICENSE", "\n\n".join(t.rstrip() for t in migration.model.licenses) + "\n")
    _text(root / "MIGRATION.md", runbook(migration, findings, GENERATOR))
    manifest = _manifest(migration, findings, _files(root))
    _text(root / bundle_format.FILE_NAME, manifest.to_json())


def _convert(migration: Migration, header: GGUFHeader, model_dir: Path, progress: Progress | None) -> Sequence[Finding]:
    from migrate.checkpoint.convert import convert_weights

    adapter = migration.adapter.header if migration.adapter and migration.adapter.merged else None
    way = migration.way
    dtype = migration.dtype if way in (None, "dense") else migration.choices.dtype
    report = convert_weights(
        header,
        model_dir,
        dtype=dtype,
        way=way,
        adapter=adapter,
        tokenizer=migration.choices.tokenizer,
        progress=progress,
    )
    return report.findings


def _write_adapter(root: Path, migration: Migration) -> Sequence[Finding]:
    adapter = migration.adapter
    if adapter is None or adapter.merged:
        return ()
    directory = root / adapters.DIRECTORY
    directory.mkdir(parents=True)
    if adapter.header is None:
        for path in adapter.files:
            shutil.copyfile(path, directory / path.name)
        return ()
    from migrate.checkpoint.lora import convert_adapter

    assert migration.model.gguf is not None
    name = adapters.base_name(migration.served_names)
    return convert_adapter(adapter.header, migration.model.gguf, directory, base_name=name).findings


def launch_files(migration: Migration) -> dict[str, str]:
    """serve.yaml, serve.sh and, where needed, the middleware with its defaults: name -> text."""
    version = versions.find(migration.choices.vllm_version)
    name = migration.served_names[0]
    files = {
        "serve.yaml": serve.to_yaml(
            migration.arguments,
            f"{name}: vLLM {version.version}, in this directory: vllm serve --config serve.yaml\n"
            f"Written by {GENERATOR}; each line says where it comes from.",
        ),
        "serve.sh": resources.render(
            "bundle/serve.sh.j2",
            name=name,
            served_name=name,
            host=migration.choices.host,
            port=migration.choices.port,
            environment=migration.environment,
            vllm_version=version.version,
            generator=GENERATOR,
            pooling=migration.pooling,
        ),
    }
    if migration.request_defaults:
        files["migrate_defaults.py"] = resources.text("bundle/migrate_defaults.py")
        files["request_defaults.json"] = _json(dict(migration.request_defaults))
    if migration.tool_tag is not None:
        files["tool_parser.py"] = tool_parser(migration.tool_tag)
    return files


def tool_parser(tag: str) -> str:
    """The plugin for vLLM that finds tool calls behind `tag`."""
    default = 'TAG = "{"'
    source = resources.text("bundle/tool_parser.py")
    assert source.count(default) == 1
    return source.replace(default, f"TAG = {tag!r}")


def _manifest(
    migration: Migration, findings: list[Finding], files: dict[str, bundle_format.FileEntry]
) -> bundle_format.Manifest:
    model, choices, header = migration.model, migration.choices, migration.model.gguf
    assert header is not None
    return bundle_format.Manifest(
        generator=GENERATOR,
        source=bundle_format.Source(
            name=model.name,
            kind=model.kind,
            architecture=header.architecture,
            quantization=header.file_type or "unknown",
            parameter_count=header.parameter_count,
            digests=_digests(migration),
            prompt_path=migration.prompt.path,
            prompt_path_reason=migration.prompt.reason,
            template=model.template,
            chat_template=header.chat_template,
            system=model.system,
            messages=[dict(m) for m in model.messages],
            parameters=[{"name": p.name, "value": p.value, "origin": p.origin} for p in migration.parameters],
            adds_bos=migration.bos_in_template,
            ollama_version=choices.ollama_version or model.ollama_version or CURRENT_VERSION,
        ),
        target=bundle_format.Target(
            vllm_version=choices.vllm_version,
            image=versions.find(choices.vllm_version).image,
            served_model_name=list(migration.served_names),
            dtype=migration.dtype,
            max_model_len=migration.max_model_len,
            host=choices.host,
            port=choices.port,
            client=choices.client,
            eos_token_id=list(migration.generation.eos_token_id) if migration.generation else [],
            request_defaults=dict(migration.request_defaults),
        ),
        original=_original(choices.original),
        findings=[bundle_format.FindingEntry.model_validate(f.to_dict()) for f in findings],
        files=files,
    )


def _original(proof: Proof | None) -> bundle_format.Original | None:
    if proof is None:
        return None
    return bundle_format.Original(
        repository=proof.repository,
        revision=proof.revision,
        reason=proof.reason,
        full=proof.full,
        bytes_compared=proof.nbytes,
        judgements=proof.counts(),
    )


def _digests(migration: Migration) -> dict[str, str]:
    """The layers' digests; a GGUF that is no blob of a store is hashed here."""
    digests = {role: digest for role, digest in migration.model.digests.items() if digest}
    header = migration.model.gguf
    has_file = migration.model.checkpoint is None or migration.choices.original is not None
    if header is not None and has_file and "model" not in digests:
        for number, path in enumerate(header.files, 1):
            digests["model" if number == 1 else f"model part {number}"] = f"sha256:{_sha256(path)}"
    return dict(sorted(digests.items()))


# ---- files ----------------------------------------------------------------------------------------------------------


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A fresh directory next to `out` that takes its place when the block ends well and is gone when it does not.

    Its name is its own, so that two runs do not meet and nothing else is removed.
    """
    final = out.resolve()
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f".{final.name}.partial-", dir=final.parent))
    except OSError as error:
        raise UsageError(f"{final.parent} cannot be written: {error.strerror}") from None
    building, old = scratch / "new", scratch / "old"
    try:
        building.mkdir()
        yield building
        if out.is_dir():
            out.rename(old)
        building.rename(out)
        if old.is_dir():
            _keep_others(old, out)
    except OSError as error:
        raise UsageError(f"{out} could not be written: {error.strerror or error}") from error
    finally:
        if old.is_dir() and not out.exists():
            old.rename(out)
        shutil.rmtree(scratch, ignore_errors=True)


def _keep_others(old: Path, out: Path) -> None:
    """What lies in a replaced bundle and is none of its files moves along: proofs, recordings, deployment files."""
    try:
        own = {name.partition("/")[0] for name in bundle_format.read(old).files}
    except MigrateError:
        own = set()
    for path in sorted(old.iterdir()):
        if path.name not in own | {bundle_format.FILE_NAME} and not (out / path.name).exists():
            path.rename(out / path.name)


def _check_sources(migration: Migration) -> None:
    """The blobs must still be what their digests, and the header that was planned with, say."""
    model, header = migration.model, migration.model.gguf
    assert header is not None
    if model.checkpoint is None and header.path.stat().st_size != header.size:
        raise BadInput(f"{header.path.name} changed size while it was being read", hint="try again")
    used = {*header.files, *(migration.adapter.files if migration.adapter else [])}
    for layer in dict.fromkeys((*model.layers, *model.adapters)):
        if layer.path and layer.digest and layer.path in used:
            found = f"sha256:{_sha256(layer.path)}"
            if found != layer.digest:
                raise StoreError(
                    f"blob {layer.digest} is damaged: its content has the digest {found}",
                    hint="pull or create the model again in Ollama",
                )


def _files(root: Path) -> dict[str, bundle_format.FileEntry]:
    return {
        path.relative_to(root).as_posix(): bundle_format.FileEntry(size=path.stat().st_size, sha256=_sha256(path))
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text(path: Path, text: str, *, executable: bool = False) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
    path.chmod(0o755 if executable else 0o644)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
