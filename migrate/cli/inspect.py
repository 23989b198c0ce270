"""`migrate inspect [REF]`: what is it, what will move exactly, what will not, what does it need."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from migrate.cli import options
from migrate.cli.output import console, hint, ledger_table, print_json, printable, say, size


def command(
    refs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[REF...]", help="A model name in the store, a Modelfile, or a GGUF file."),
    ] = None,
    every: options.All = False,
    models_dir: options.ModelsDir = None,
    host: options.Host = None,
    client: options.Client = "native",
    ollama_version: options.OllamaVersion = None,
    as_json: options.Json = False,
) -> None:
    """Show what a model is, and what of it will move to vLLM and how well.

    Without REF: the models of the store, a line each. With several, or --all: which of them one vLLM can serve.
    """
    if every or len(set(refs or ())) > 1:
        _groups(refs or [], every, models_dir, host, client, ollama_version, as_json)
        return
    if not refs:
        _list(models_dir, host, as_json)
        return
    ref = refs[0]
    from migrate.mapping.inspection import inspection
    from migrate.mapping.migration import plan

    model = _load(ref, models_dir, host)
    result = inspection(plan(model, choices(client=client, ollama_version=ollama_version, host_url=host, name=ref)))
    result["diagnosis"] = _diagnosis(host, {model.name: result["kv_bytes_per_token"]}) if host else None
    if as_json:
        print_json(result)
        return
    _show(result)
    if result["diagnosis"]:
        _show_diagnosis(result["diagnosis"])
    if result["movable"]:
        where = f" --models-dir {models_dir}" if models_dir else ""
        hint(f"migrate convert {ref}{where} -o out/")


def _groups(
    refs: list[str],
    every: bool,
    models_dir: Path | None,
    host: str | None,
    client: str,
    ollama_version: str | None,
    as_json: bool,
) -> None:
    from migrate.cli import inspect_groups, sets

    def choose(ref: str) -> Any:
        return choices(client=client, ollama_version=ollama_version, host_url=host, name=ref)

    found = sets.find(refs, choose, every=every, models_dir=models_dir, host=host)
    if inspect_groups.show(found, as_json=as_json) and not as_json:
        where = f" --models-dir {models_dir}" if models_dir else ""
        hint(f"migrate convert {'--all' if every else ' '.join(refs)}{where} -o out/")


def choices(*, client: str, ollama_version: str | None, host_url: str | None, name: str, **more: Any) -> Any:
    """`Choices` from the command line, checked."""
    from migrate.errors import UsageError
    from migrate.mapping.migration import Choices

    if client not in ("native", "openai"):
        raise UsageError(f"--client {client}: must be native or openai")
    if ollama_version is not None and not re.match(r"v?\d+(\.\d+)*", ollama_version):
        raise UsageError(f"--ollama-version {ollama_version!r} is no version", hint="write it as 0.33.0")
    if host_url is not None:
        more.setdefault("loaded_context", _loaded_context(host_url, name))
    return Choices(client="openai" if client == "openai" else "native", ollama_version=ollama_version, **more)


def _loaded_context(host: str, name: str) -> int | None:
    """The context a running server uses for the model, when it is loaded (/api/ps)."""
    from migrate.ollama.api import OllamaAPI
    from migrate.ollama.names import ModelName

    wanted = ModelName.parse(name)
    with OllamaAPI(host) as api:
        for row in api.ps():
            if ModelName.parse(row["name"]) == wanted and row.get("context_length"):
                return int(row["context_length"])
    return None


def _load(ref: str, models_dir: Path | None, host: str | None) -> Any:
    from migrate.ollama import reference

    return reference.load(ref, models_dir=models_dir, host=host)


# ---- one model ------------------------------------------------------------------------------------------------------


def _show(r: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    out.print(Text(printable(r["name"]), style="bold"))
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(r):
        facts.add_row(Text(name, style="dim"), Text(printable(value)))
    out.print(facts)
    out.print()
    out.print(ledger_table(r["findings"]))
    out.print()
    counts = ", ".join(f"{count} {status}" for status, count in r["finding_counts"].items())
    verdict = Text("moves", style="bold green") if r["movable"] else Text("does not move", style="bold red")
    out.print(verdict, Text(f"({counts})"))


def _facts(r: dict[str, Any]) -> list[tuple[str, str]]:
    types = ", ".join(f"{t['type']} {size(t['bytes'])}" for t in r["tensor_types"])
    memory, tokenizer, kv = r["memory"], r["tokenizer"], r["kv_bytes_per_token"]
    weights = f"{size(memory['bf16'])} at bf16, {size(memory['int8'])} at 8 bits, {size(memory['int4'])} at 4 bits"
    vocabulary = tokenizer and f"{tokenizer['model']}/{tokenizer['pre'] or '-'}, {tokenizer['vocab_size']:,} tokens"
    rows = [
        ("architecture", r["architecture"] or "unknown"),
        ("parameters", f"{r['parameter_count']:,}" if r["parameter_count"] else "unknown"),
        ("quantization", f"{r['quantization']}{f' ({types})' if types else ''}"),
        ("context", f"{r['context_length']:,} tokens" if r["context_length"] else "unknown"),
        ("KV cache", f"{size(kv)} per token (2-byte cache)" if kv else "unknown"),
        ("weights", weights),
        ("tokenizer", vocabulary or "unknown"),
        ("prompt path", f"{r['prompt_path']}: {r['prompt_path_reason']}"),
        ("parameters set", _parameters(r) or "none"),
        ("Ollama", r["ollama_version"] + ("" if r["ollama_version_known"] else " assumed")),
    ]
    if r["parent"]:
        rows.insert(1, ("parent", r["parent"]))
    if r["provenance"].get("general.name"):
        rows.insert(1, ("name in the GGUF", r["provenance"]["general.name"]))
    return rows


def _parameters(r: dict[str, Any]) -> str:
    own = [p for p in r["parameters"] if not p["origin"].startswith("Ollama default")]
    return ", ".join(f"{p['name']} {p['value']} [{p['origin']}]" for p in own)


# ---- the server -----------------------------------------------------------------------------------------------------


SEVERITY_STYLE = {"problem": "bold red", "unknown": "yellow", "note": "dim", "fine": "green"}


def _diagnosis(host: str, kv: dict[str, int | None] | None = None) -> dict[str, Any]:
    """Why the GPU behind a running Ollama may idle, and what vLLM does there."""
    from migrate.mapping.diagnosis import diagnosis
    from migrate.ollama.api import OllamaAPI
    from migrate.ollama.server_process import observe

    with OllamaAPI(host) as api:
        return diagnosis(observe(api), {name: size for name, size in (kv or {}).items() if size})


def _show_diagnosis(found: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    out.print()
    version = f" {found['version']}" if found["version"] else ""
    out.print(Text(printable(f"Ollama{version} at {found['server']}, as it runs"), style="bold"))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    for symptom in found["symptoms"]:
        text = Text(printable(symptom["evidence"]))
        if symptom["meaning"]:
            text.append(f"\n{printable(symptom['meaning'])}", style="dim")
        if symptom["severity"] != "fine":
            text.append(f"\nvLLM {printable(symptom['vllm'])}")
        severity = Text(symptom["severity"], style=SEVERITY_STYLE[symptom["severity"]])
        table.add_row(severity, Text(symptom["topic"]), text)
    out.print(table)
    for note in found["notes"]:
        out.print(Text(printable(f"not read: {note}"), style="dim"))


# ---- the store ------------------------------------------------------------------------------------------------------


def _list(models_dir: Path | None, host: str | None, as_json: bool) -> None:
    rows = _remote_rows(host) if host else _store_rows(models_dir)
    found = _diagnosis(host) if host else None
    if as_json:
        print_json({"schema_version": 1, "models": rows, "diagnosis": found})
        return
    if not rows:
        say("the store is empty")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("model", "architecture", "parameters", "quantization", "size", "prompt", "moves"):
        table.add_column(name, justify="right" if name in ("parameters", "size") else "left", no_wrap=name == "model")
    for row in rows:
        moves = Text("yes", style="green") if row["movable"] else Text(f"no: {row['because']}", style="red")
        table.add_row(
            Text(row["name"], style="bold"),
            row["architecture"],
            f"{row['parameter_count']:,}" if row["parameter_count"] else "?",
            row["quantization"],
            size(row["size"]),
            row["prompt_path"] or "?",
            moves,
        )
    console().print(table)
    if found:
        _show_diagnosis(found)
    hint("migrate inspect MODEL")


def _store_rows(models_dir: Path | None) -> list[dict[str, Any]]:
    from migrate.ollama.store import Store, find_models_dir

    store = Store(find_models_dir(models_dir))
    return [_row(name.short, partial(store.load, name)) for name in store.list()]


def _remote_rows(host: str) -> list[dict[str, Any]]:
    from migrate.ollama.api import OllamaAPI

    with OllamaAPI(host) as api:
        return [_row(entry.name.short, partial(api.load_model, str(entry.name))) for entry in api.list()]


def _row(name: str, load: Any) -> dict[str, Any]:
    """One line of the list. A model that cannot be read is a line too, with the reason."""
    from migrate.errors import MigrateError
    from migrate.mapping.inspection import inspection
    from migrate.mapping.migration import plan

    empty = {"architecture": "?", "parameter_count": None, "quantization": "?", "prompt_path": None}
    try:
        model = load()
        r = inspection(plan(model))
    except MigrateError as error:
        return {
            "name": name,
            **empty,
            "size": None,
            "movable": False,
            "because": "cannot be read",
            "reason": str(error),
        }
    refused = next((f for f in r["findings"] if f["status"] == "refused"), None)
    return {
        "name": name,
        **{key: r[key] for key in empty},
        "size": sum(layer.size for layer in model.layers) or None,
        "movable": r["movable"],
        "because": refused["item"] if refused else None,
        "reason": f"{refused['item']}: {refused['reason']}" if refused else None,
    }
