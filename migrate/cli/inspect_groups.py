"""`migrate inspect REF REF...` and `--all`: which models can share a server, what differs, what must stand alone."""

from __future__ import annotations

from typing import Any

from migrate.cli import sets
from migrate.cli.output import console, print_json, printable, size


def show(found: sets.Found, *, as_json: bool) -> bool:
    """Prints the groups; whether all models are in one and none is refused."""
    rows = [group_row(group) for group in found.groups]
    left = [out.to_dict() for out in found.left_out]
    if as_json:
        print_json({"schema_version": 1, "groups": rows, "left_out": left})
    else:
        _print(rows, left)
    return not left and all(model["movable"] for row in rows for model in row["models"])


def group_row(group: Any) -> dict[str, Any]:
    """One group: its weights, its models, and in what they differ."""
    from migrate.bundle.estimate import weight_bytes
    from migrate.mapping.groups import differences

    first = group.migrations[0]
    header = first.model.gguf
    return {
        "name": group.name,
        "weights": first.model.digests.get("model"),
        "architecture": header.architecture if header else "",
        "parameter_count": header.parameter_count if header else None,
        "weight_bytes": weight_bytes(first),
        "differs": differences(group.migrations),
        "apart": group.apart,
        "models": [_model(migration) for migration in group.migrations],
    }


def _model(migration: Any) -> dict[str, Any]:
    model, refused = migration.model, migration.refused
    own = {p.name: p.value for p in migration.parameters if not p.is_default}
    return {
        "name": model.name,
        "served_model_name": list(migration.served_names),
        "parent": model.parent,
        "prompt_path": migration.prompt.path,
        "system": model.system,
        "parameters": own,
        "adapter": model.adapters[0].digest or str(model.adapters[0].path) if model.adapters else None,
        "max_model_len": migration.max_model_len,
        "movable": not refused,
        "because": f"{refused[0].item}: {refused[0].reason}" if refused else None,
    }


def _print(rows: list[dict[str, Any]], left: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    for row in rows:
        count = len(row["models"])
        weights = f"{size(row['weight_bytes'])} of weights" + (f", once for {count} models" if count > 1 else "")
        out.print(Text(printable(row["name"]), style="bold"), Text(f"{row['architecture']}, {weights}", style="dim"))
        if row["differs"] and count > 1:
            out.print(Text(f"  they differ in: {', '.join(row['differs'])}"))
        if row["apart"]:
            out.print(Text(f"  {printable(row['apart'])}", style="yellow"))
        table = Table(box=None, padding=(0, 2, 0, 2), header_style="bold")
        for name in ("model", "context", "SYSTEM", "own parameters", "moves"):
            table.add_column(name, no_wrap=name == "model", overflow="fold")
        for model in row["models"]:
            adapter = ", ADAPTER" if model["adapter"] else ""
            parameters = ", ".join(f"{key} {value}" for key, value in model["parameters"].items())
            moves = Text("yes", style="green") if model["movable"] else Text(f"no: {model['because']}", style="red")
            system = " ".join((model["system"] or "").split())
            table.add_row(
                Text(printable(model["name"]), style="bold"),
                f"{model['max_model_len']:,}",
                Text(printable(system if len(system) < 40 else system[:39] + "…")),
                Text(printable(parameters + adapter)),
                moves,
            )
        out.print(table)
        out.print()
    for entry in left:
        out.print(Text(f"{printable(entry['model'])}: cannot be read: {printable(entry['reason'])}", style="red"))
