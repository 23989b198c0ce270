"""MIGRATION.md: what a team does, from the day before to the day Ollama is switched off, with this model's values.

What clients have to change is the short list; `migrate.parity.clients` has the whole one (docs/clients.md), and this
package must not import it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from migrate import resources
from migrate.findings import Finding, Status
from migrate.mapping.inspection import kv_bytes_per_token
from migrate.mapping.migration import Migration
from migrate.mapping.variants import Variant
from migrate.vllm import versions

MEANINGS = {
    Status.EXACT.value: "The same bytes, numbers or behaviour.",
    Status.EQUIVALENT.value: "Expressed differently for the same effect; where an edge shows, the reason says so.",
    Status.APPROXIMATE.value: "Close. Read these: answers can differ.",
    Status.DROPPED.value: "No counterpart in vLLM. Read what that changes.",
}
SNIPPETS = {"shadow": "bundle/shadow.conf.j2", "canary": "bundle/canary.conf.j2"}
"""Files for nginx that the text shows."""
READ_FIRST = (Status.APPROXIMATE, Status.DROPPED, Status.EQUIVALENT, Status.EXACT)


@dataclass(frozen=True, slots=True)
class Limits:
    """Where an operator should look: seconds, shares of 1, requests. The baseline of the old server is a better source.

    `errors` and `preemptions` are counts in the alert's window (5 and 10 minutes).
    """

    ttft_s: float = 2.0
    itl_s: float = 0.2
    e2e_s: float = 60.0
    waiting: int = 10
    cache_share: float = 0.95
    preemptions: int = 10
    error_share: float = 0.01
    errors: int = 3
    refused_share: float = 0.05
    length_share: float = 0.5


def reachable(host: str) -> str:
    """The address a client on the same machine uses for what a server listens on."""
    if host in ("0.0.0.0", "::", "localhost"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def runbook(migration: Migration, findings: Sequence[Finding], generator: str, variants: Sequence[Variant] = ()) -> str:
    """The text of MIGRATION.md; `variants`: the models of a set, whose server `migration` is."""
    version = versions.find(migration.choices.vllm_version)
    model, header = migration.model, migration.model.gguf
    assert header is not None
    where = {"host": reachable(migration.choices.host), "port": migration.choices.port}
    source = model.digests.get("model") or header.path.name
    groups = [(s, [f for f in findings if f.status is s]) for s in READ_FIRST]
    kv = None if migration.pooling else kv_bytes_per_token(migration)
    text = resources.render(
        "bundle/MIGRATION.md.j2",
        **where,
        **{name: resources.render(template, **where).strip() for name, template in SNIPPETS.items()},
        name=migration.served_names[0],
        source_name=model.name if model.kind in ("store", "host") else migration.served_names[0],
        served_names=migration.served_names,
        served_name=migration.served_names[0],
        generator=generator,
        facts=(
            f"Source: {header.architecture}, {header.file_type or 'unknown quantization'}, "
            f"{header.parameter_count:,} parameters, weights {source}."
            + ("" if migration.pooling else f" Prompt: {migration.prompt.reason}.")
        ),
        weights=_size(_weight_bytes(migration)),
        dtype=migration.dtype or "the checkpoint's dtype",
        cache=_size(kv * migration.max_model_len) if kv else None,
        counts=", ".join(f"{n} {s.value}" for s in Status if (n := sum(f.status is s for f in findings))),
        ledger=[(status.value, rows) for status, rows in groups if rows],
        meanings=MEANINGS,
        vllm_version=version.version,
        image=version.image,
        client=migration.choices.client,
        generation=migration.generation,
        max_model_len=migration.max_model_len,
        max_stops=migration.environment.get("VLLM_MAX_STOP_STRINGS", versions.MAX_STOP_STRINGS),
        tools=any(argument.name == "tool-call-parser" for argument in migration.arguments),
        system_length=len(model.system or ""),
        dated="strftime_now" in (migration.chat_template or ""),
        needs_path=any(argument.name in ("middleware", "logits-processors") for argument in migration.arguments),
        pooling=migration.pooling,
        limits=Limits(),
        variants=[_variant(variant) for variant in variants],
    )
    return text.rstrip() + "\n"


def _variant(variant: Variant) -> dict[str, str]:
    """A row of the table of models."""
    shown = {key: value for key, value in variant.defaults.items() if key != "chat_template_kwargs"}
    system = variant.migration.model.system or ""
    notable = [f for f in variant.findings if f.status in (Status.APPROXIMATE, Status.DROPPED)]
    return {
        "names": ", ".join(variant.served_names),
        "system": " ".join(system.split())[:60] or "none",
        "defaults": ", ".join(f"{key} {json.dumps(value, ensure_ascii=False)}" for key, value in shown.items())
        or "none",
        "context": f"{variant.migration.max_model_len:,}",
        "adapter": variant.directory or "",
        "notable": "; ".join(f"{f.item}: {f.status.value}" for f in notable) or "none",
    }


def _weight_bytes(migration: Migration) -> int:
    """Of the written checkpoint: what the GPU holds of it."""
    if migration.model.checkpoint is not None:
        return migration.model.checkpoint.nbytes
    from migrate.checkpoint.convert import plan_storage
    from migrate.checkpoint.weights import output_tensors

    assert migration.layout is not None
    storage = plan_storage(migration.layout, migration.way, migration.dtype)
    return sum(tensor.nbytes for tensor in output_tensors(storage.assignments))


def _size(count: float) -> str:
    """Bytes for people: 4.10 GB, in powers of ten as GPUs are sold."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.2f} GB"
