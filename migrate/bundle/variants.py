"""A bundle of several models on the same weights, and the gateway's file for bundles that lie side by side."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from migrate.bundle import format as bundle_format
from migrate.bundle import source as sources
from migrate.bundle import write
from migrate.bundle.runbook import reachable, runbook
from migrate.errors import OutputExists, Refused
from migrate.findings import Finding
from migrate.mapping.migration import Migration
from migrate.mapping.variants import Variant, VariantSet, base_names, path_name
from migrate.ollama.manifest import TENSOR
from migrate.ollama.model import OllamaModel

GATEWAY_FILE = "gateway.yaml"
GATEWAY_LISTEN = "127.0.0.1:11434"
"""Ollama's own address: clients change nothing."""


def check_movable(planned: VariantSet) -> None:
    """Raises Refused for the first model that is, by its name."""
    for variant in planned.variants:
        try:
            write.check_movable(variant.migration)
        except Refused as error:
            raise Refused(f"{variant.migration.model.name}: {error}", hint=error.hint) from None


def write_set(
    planned: VariantSet, out: Path, *, force: bool = False, progress: write.Progress | None = None
) -> write.Written:
    """One bundle for all of them: one checkpoint, a served name each. Raises what `write.write` raises."""
    check_movable(planned)
    write.check_output(out, force=force)
    for variant in planned.variants:
        adapter = variant.migration.adapter
        write.verify_layers(variant.migration, adapter.files if adapter else [])
    with write.beside(out) as building:
        _write_into(building, planned, progress)
    manifest = bundle_format.read(out)
    files = manifest.files.items()
    weights = sum(e.size for name, e in files if name.startswith("model/") and name.endswith(".safetensors"))
    return write.Written(out, manifest, weights)


def _write_into(root: Path, planned: VariantSet, progress: write.Progress | None) -> None:
    server = replace(planned.server, model=_with_licenses(planned))
    of_weights = [f for f in write.write_model(root, server, progress) if f not in server.ledger.findings]
    of_adapters = _write_adapters(root, planned)
    write.write_launch_files(root, server)
    if planned.tool_tags and server.tool_tag is not None:
        write.write_text(root / "tool_parser.py", write.tool_parser(server.tool_tag, planned.tool_tags))
    for variant in planned.variants:
        if variant.chat_template is not None:
            path = root / variant.chat_template
            path.parent.mkdir(parents=True)
            write.write_text(path, variant.migration.chat_template or "")
    write.write_show(root, {variant.name: variant.migration for variant in planned.variants})
    findings = [
        list(dict.fromkeys([*v.findings, *of_weights, *of_adapters.get(v.directory or "", ())]))
        for v in planned.variants
    ]
    text = runbook(server, findings[0], write.GENERATOR, planned.variants)
    write.write_text(root / "MIGRATION.md", text)
    manifest = _manifest(planned, findings, write.list_files(root))
    write.write_text(root / bundle_format.FILE_NAME, manifest.to_json())
    choices = server.choices
    upstream = Upstream(path_name(planned.variants[0].name), choices.host, choices.port, ".")
    write.write_text(root / GATEWAY_FILE, gateway_yaml([upstream]))


def _with_licenses(planned: VariantSet) -> OllamaModel:
    texts = dict.fromkeys(text for variant in planned.variants for text in variant.migration.model.licenses)
    return replace(planned.server.model, licenses=tuple(texts))


def _write_adapters(root: Path, planned: VariantSet) -> dict[str, Sequence[Finding]]:
    """Directory -> what was found on the way."""
    written: dict[str, Sequence[Finding]] = {}
    directories = {v.name: v.directory for v in planned.variants if v.directory is not None}
    name = base_names([v.migration for v in planned.variants], directories)[0]
    for variant in planned.variants:
        if variant.directory is not None and variant.directory not in written:
            target = root / variant.directory
            written[variant.directory] = write.write_adapter(variant.migration, target, base_name=name)
    return written


def _manifest(
    planned: VariantSet, findings: Sequence[list[Finding]], files: dict[str, bundle_format.FileEntry]
) -> bundle_format.Manifest:
    """`target` is the first model's, with the names and the context of the server."""
    digests = sources.layer_digests(planned.variants[0].migration)
    rows = [_row(v, f, digests, files) for v, f in zip(planned.variants, findings, strict=True)]
    whole = write.manifest_of(planned.server, findings[0], files)
    target = whole.target.model_copy(
        update={
            "served_model_name": [name for row in rows for name in row.served_model_name],
            "eos_token_id": rows[0].eos_token_id,
            "request_defaults": dict(planned.variants[0].migration.request_defaults),
        }
    )
    return whole.model_copy(update={"source": rows[0].source, "target": target, "variants": rows})


def _row(
    variant: Variant, findings: list[Finding], weights: dict[str, str], files: dict[str, bundle_format.FileEntry]
) -> bundle_format.Variant:
    migration = variant.migration
    own = {role: digest for role, digest in migration.model.digests.items() if digest}
    model_layers = {role: digest for role, digest in weights.items() if role.startswith("model")}
    return bundle_format.Variant(
        name=variant.name,
        served_model_name=list(variant.served_names),
        source=sources.source(migration, dict(sorted((model_layers | own).items()))),
        findings=[bundle_format.FindingEntry.model_validate(f.to_dict()) for f in findings],
        max_model_len=migration.max_model_len,
        eos_token_id=list(migration.generation.eos_token_id) if migration.generation else [],
        stop_token_ids=list(variant.stop_token_ids),
        request_defaults=dict(variant.defaults),
        adapter=variant.directory,
        chat_template=variant.chat_template if variant.chat_template in files else None,
    )


# ---- whose weights --------------------------------------------------------------------------------------------------


def weights_ids(models: Sequence[OllamaModel]) -> list[str]:
    """What tells the weights of each model from others: their digest, or the file's path.

    A file without a digest is hashed only where another model's has the same size.
    """
    files = [_file(model) for model in models]
    known = {path: digest for path, model in zip(files, models, strict=True) if path and (digest := _digest(model))}
    sizes = [path.stat().st_size if path else None for path in files]
    found = []
    for number, (model, path) in enumerate(zip(models, files, strict=True)):
        identity = _digest(model) or (known.get(path, "") if path else "")
        if not identity and path:
            others = {files[i] for i, size in enumerate(sizes) if size == sizes[number]} - {path}
            identity = f"sha256:{sources.sha256(path)}" if others else str(path)
        found.append(identity or f"{number}")
    return found


def _file(model: OllamaModel) -> Path | None:
    """The GGUF, without symbolic links."""
    if model.checkpoint is not None or model.gguf is None:
        return None
    return Path(os.path.realpath(model.gguf.files[0]))


def _digest(model: OllamaModel) -> str:
    """Of the weights: the blob's, or of all tensors of a checkpoint in a store; "" when nothing says."""
    if model.checkpoint is None:
        return model.digests.get("model", "")
    tensors = sorted(layer.digest for layer in model.layers if layer.media_type == TENSOR)
    if tensors:
        return "tensors:" + hashlib.sha256("\n".join(tensors).encode()).hexdigest()
    paths = [*model.checkpoint.shards, *model.checkpoint.files.values()]
    return "files:" + hashlib.sha256("\n".join(sorted(map(os.path.realpath, paths))).encode()).hexdigest()


# ---- the gateway ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Upstream:
    """One vLLM behind the gateway; `bundle` is relative to gateway.yaml."""

    name: str
    host: str
    port: int
    bundle: str


def gateway_yaml(upstreams: Sequence[Upstream]) -> str:
    """The configuration of `migrate gateway serve`: every name of every bundle, each at the server that has it."""
    lines = [
        "# For `migrate gateway serve`: Ollama's API in front of these servers. Paths are relative to this file.",
        f"# Written by {write.GENERATOR}; each bundle's serve.yaml has the port that stands here.",
        f"listen: {GATEWAY_LISTEN}",
        "upstreams:",
        *(f'  {u.name}: {{url: "http://{reachable(u.host)}:{u.port}"}}' for u in upstreams),
        "models:",
        *(f"  - {{bundle: {_quoted(u.bundle)}, upstream: {u.name}}}" for u in upstreams),
    ]
    return "\n".join(lines) + "\n"


def _quoted(path: str) -> str:
    return f'"{path}"' if path == "." else path


def check_gateway_file(directory: Path, *, force: bool) -> None:
    """Raises OutputExists when a gateway.yaml would be replaced without `force`."""
    if (directory / GATEWAY_FILE).exists() and not force:
        raise OutputExists(f"{directory / GATEWAY_FILE} exists", hint="choose another -o, or pass --force")


def directory_names(migrations: Sequence[Migration]) -> list[str]:
    """A directory for each bundle, by its first model; equal names are numbered."""
    found: list[str] = []
    for migration in migrations:
        name = path_name(migration.served_names[0] if migration.served_names else migration.model.name)
        copies = sum(other == name or other.rpartition("-")[0] == name for other in found)
        found.append(name if name not in found else f"{name}-{copies + 1}")
    return found
