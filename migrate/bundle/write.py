"""Writes a bundle: built in a directory beside its place and renamed, so that there is never half of one."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from migrate import __version__, resources
from migrate.bundle import format as bundle_format
from migrate.bundle import source as sources
from migrate.bundle.runbook import runbook
from migrate.errors import BadInput, MigrateError, OutputExists, Refused, StoreError, UsageError
from migrate.findings import Finding
from migrate.gguf.header import GGUFHeader
from migrate.mapping import adapters
from migrate.mapping.migration import PROCESSORS, Migration
from migrate.mapping.parameters import PLUGIN
from migrate.ollama import tool_calls
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
    with beside(out) as building:
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
    findings = write_model(root, migration, progress)
    findings = list(dict.fromkeys([*findings, *_write_adapter(root, migration)]))
    write_launch_files(root, migration)
    write_text(root / "MIGRATION.md", runbook(migration, findings, GENERATOR))
    write_show(root, {migration.served_names[0]: migration})
    manifest = manifest_of(migration, findings, list_files(root))
    write_text(root / bundle_format.FILE_NAME, manifest.to_json())


def write_model(root: Path, migration: Migration, progress: Progress | None) -> list[Finding]:
    """`model/`: weights, tokenizer, configuration, chat template. Returns the ledger with what was found on the way."""
    header = migration.model.gguf
    if header is None or (migration.generation is None and not migration.pooling):
        raise Refused("the weights are not on this machine")
    check_sources(migration)
    model_dir = root / "model"
    model_dir.mkdir()
    if migration.model.checkpoint is not None:
        from migrate.checkpoint.passthrough import copy_checkpoint

        copy_checkpoint(migration.model.checkpoint, model_dir, progress=progress)
        found: Sequence[Finding] = ()
        if not (model_dir / "tokenizer.json").exists() and header.get("tokenizer.ggml.tokens"):
            from migrate.checkpoint.tokenizer import write_tokenizer

            _, found = write_tokenizer(header, model_dir)
    else:
        found = _convert(migration, header, model_dir, progress)
    if migration.generation is not None:
        write_text(model_dir / "generation_config.json", to_json(migration.generation.to_dict()))
    if migration.chat_template is not None:
        write_text(model_dir / "chat_template.jinja", migration.chat_template)
    return list(dict.fromkeys([*migration.ledger, *found]))


def write_launch_files(root: Path, migration: Migration) -> None:
    """serve.yaml, serve.sh and what they need, and the licences."""
    for name, text in launch_files(migration).items():
        write_text(root / name, text, executable=name.endswith(".sh"))
    if migration.model.licenses:
        write_text(root / "LICENSE", "\n\n".join(t.rstrip() for t in migration.model.licenses) + "\n")


def write_show(root: Path, migrations: Mapping[str, Migration]) -> None:
    """ollama_show.json: served name -> what /api/show says of the weights."""
    shown = {name: sources.shown(migration) for name, migration in migrations.items()}
    write_text(root / bundle_format.SHOW_FILE, to_json(shown))


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
    name = adapters.base_name(migration.served_names)
    return write_adapter(migration, root / adapters.DIRECTORY, base_name=name)


def write_adapter(migration: Migration, directory: Path, *, base_name: str) -> Sequence[Finding]:
    """The model's LoRA as PEFT, if it has one that is served. `base_name`: what the weights are served as."""
    adapter = migration.adapter
    if adapter is None or adapter.merged:
        return ()
    directory.mkdir(parents=True)
    if adapter.header is None:
        for path in adapter.files:
            shutil.copyfile(path, directory / path.name)
        return ()
    from migrate.checkpoint.lora import convert_adapter

    assert migration.model.gguf is not None
    return convert_adapter(adapter.header, migration.model.gguf, directory, base_name=base_name).findings


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
        files["request_defaults.json"] = to_json(dict(migration.request_defaults))
    if any(argument.name == PROCESSORS for argument in migration.arguments):
        files[PLUGIN] = resources.text(f"bundle/{PLUGIN}")
    if migration.tool_tag is not None:
        files["tool_parser.py"] = tool_parser(migration.tool_tag)
    return files


SEARCH = "# ---- the search: migrate/ollama/tool_calls.py ----\n"


def tool_parser(tag: str, tags: Mapping[str, str] | None = None) -> str:
    """The plugin for vLLM that finds tool calls behind `tag`; behind another where `tags` has one for the name.

    The search is the gateway's own module, whose text is put into the file.
    """
    own = Path(tool_calls.__file__).read_text(encoding="utf-8")
    _, _, search = own.partition("from __future__ import annotations\n")
    source = resources.text("bundle/tool_parser.py")
    for default, value in (
        ('TAG = "{"', f"TAG = {tag!r}"),
        ("TAGS = {}", f"TAGS = {dict(tags or {})!r}"),
        (SEARCH, SEARCH + search.rstrip() + "\n"),
    ):
        assert source.count(default) == 1
        source = source.replace(default, value)
    return source


def manifest_of(
    migration: Migration, findings: list[Finding], files: dict[str, bundle_format.FileEntry]
) -> bundle_format.Manifest:
    choices = migration.choices
    return bundle_format.Manifest(
        generator=GENERATOR,
        source=sources.source(migration),
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


# ---- files ----------------------------------------------------------------------------------------------------------


@contextmanager
def beside(out: Path) -> Iterator[Path]:
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


def check_sources(migration: Migration) -> None:
    """The blobs must still be what their digests, and the header that was planned with, say."""
    model, header = migration.model, migration.model.gguf
    assert header is not None
    if model.checkpoint is None and header.path.stat().st_size != header.size:
        raise BadInput(f"{header.path.name} changed size while it was being read", hint="try again")
    verify_layers(migration, {*header.files, *(migration.adapter.files if migration.adapter else [])})


def verify_layers(migration: Migration, used: Collection[Path]) -> None:
    """Hashes those of the model's blobs that are `used`. Raises StoreError for a damaged one."""
    model = migration.model
    for layer in dict.fromkeys((*model.layers, *model.adapters)):
        if layer.path and layer.digest and layer.path in used:
            found = f"sha256:{sources.sha256(layer.path)}"
            if found != layer.digest:
                raise StoreError(
                    f"blob {layer.digest} is damaged: its content has the digest {found}",
                    hint="pull or create the model again in Ollama",
                )


def list_files(root: Path) -> dict[str, bundle_format.FileEntry]:
    return {
        path.relative_to(root).as_posix(): bundle_format.FileEntry(
            size=path.stat().st_size, sha256=sources.sha256(path)
        )
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def write_text(path: Path, text: str, *, executable: bool = False) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
    path.chmod(0o755 if executable else 0o644)


def to_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
