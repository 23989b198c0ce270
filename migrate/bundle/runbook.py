"""MIGRATION.md: the ledger in words and the steps to start, check, cut over and roll back."""

from __future__ import annotations

from collections.abc import Sequence

from migrate import resources
from migrate.findings import Finding, Status
from migrate.mapping.migration import Migration
from migrate.vllm import versions

MEANINGS = {
    Status.EXACT.value: "The same bytes, numbers or behaviour.",
    Status.EQUIVALENT.value: "Expressed differently for the same effect; where an edge shows, the reason says so.",
    Status.APPROXIMATE.value: "Close. Read these: answers can differ.",
    Status.DROPPED.value: "No counterpart in vLLM. Read what that changes.",
}


def reachable(host: str) -> str:
    """The address a client on the same machine uses for what a server listens on."""
    if host in ("0.0.0.0", "::", "localhost"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def runbook(migration: Migration, findings: Sequence[Finding], generator: str) -> str:
    """The text of MIGRATION.md."""
    version = versions.find(migration.choices.vllm_version)
    header = migration.model.gguf
    assert header is not None
    weights = migration.model.digests.get("model") or header.path.name
    groups = [(s.value, [f for f in findings if f.status is s]) for s in Status]
    return resources.render(
        "bundle/MIGRATION.md.j2",
        name=migration.served_names[0],
        generator=generator,
        facts=(
            f"Source: {header.architecture}, {header.file_type or 'unknown quantization'}, "
            f"{header.parameter_count:,} parameters, weights {weights}. Prompt: {migration.prompt.reason}."
        ),
        ledger=[(status, rows) for status, rows in groups if rows],
        meanings=MEANINGS,
        vllm_version=version.version,
        image=version.image,
        host=reachable(migration.choices.host),
        port=migration.choices.port,
        served_name=migration.served_names[0],
        client=migration.choices.client,
        generation=migration.generation,
        max_model_len=migration.max_model_len,
        request_defaults=migration.request_defaults,
        pooling=migration.pooling,
    )
