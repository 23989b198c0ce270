"""`migrate resolve REF`: the Hugging Face checkpoint a model was made from, proved by its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from migrate.cli import options
from migrate.cli.output import byte_progress, console, hint, print_json, printable, say, size

if TYPE_CHECKING:
    from migrate.original.prove import Progress

_STYLE = {"proved": "bold green", "related": "bold red", "other": "bold red", "undecided": "bold yellow"}
_MAX_SHOWN = 8


def command(
    ref: options.Ref,
    hf_repo: options.HfRepo = None,
    hf_path: options.HfPath = None,
    full: Annotated[bool, typer.Option("--full", help="Compare every weight, not a stretch of every tensor.")] = False,
    models_dir: options.ModelsDir = None,
    as_json: options.Json = False,
) -> None:
    """Find the checkpoint a model was made from and prove it: its weights, quantized as the GGUF's are, must give the
    GGUF's blocks. Exit codes: 0 proved, 3 it is another, 4 undecided."""
    from migrate.cli.inspect import _load
    from migrate.original.resolve import resolve

    found = resolve(_load(ref, models_dir, None), hf_repo=hf_repo, hf_path=hf_path, full=full, showing=showing)
    code = 0 if found.proved else 4 if found.undecided else 3
    if as_json:
        print_json({"schema_version": 1, "ref": ref} | found.to_dict())
        raise typer.Exit(code)
    for attempt in found.attempts:
        _show(attempt)
    if found.proved is not None:
        where = f"--hf-path {hf_path}" if hf_path else f"--hf-repo {found.proved.repository}@{found.proved.revision}"
        hint(f"migrate convert {ref} --weights original {where} -o DIR")
    raise typer.Exit(code)


@contextmanager
def showing(name: str) -> Iterator[Progress]:
    """A line and a bar for a candidate."""
    say(f"comparing with {name}")
    with byte_progress("comparing") as progress:
        yield progress


def _show(attempt: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    out, proof = console(), attempt.proof
    name = f"{attempt.candidate.repository}{f'@{proof.revision[:12]}' if proof and proof.revision else ''}"
    out.print(Text(printable(name), style="bold"), Text(f"({printable(attempt.candidate.origin)})", style="dim"))
    if proof is None:
        out.print(Text(printable(attempt.error), style="red"))
        if attempt.hint:
            out.print(Text(f"  -> {printable(attempt.hint)}"))
        return
    table = Table.grid(padding=(0, 2))
    for check in proof.checks:
        word = {True: "equal", False: "differs", None: "unknown"}[check.equal]
        style = {True: "green", False: "red", None: "yellow"}[check.equal]
        table.add_row(Text(word, style=style), Text(check.name), Text(printable(check.reason)))
    kinds: dict[tuple[str, str], list[Any]] = {}
    for tensor in proof.tensors:
        kinds.setdefault((tensor.judgement, tensor.type), []).append(tensor)
    for (judgement, kind), tensors in list(kinds.items())[:_MAX_SHOWN]:
        style = {"differs": "red", "weak": "yellow"}.get(judgement, "green")
        weights = sum(tensor.weights for tensor in tensors)
        stray = [tensor.outside for tensor in tensors if tensor.outside is not None]
        told = f"{len(tensors)} tensors, {weights:,} weights compared"
        if judgement in ("within", "differs") and stray:
            told += f", {sum(stray):,} outside their codes"
        if judgement != "identical":
            told += f", relative error {max(tensor.error for tensor in tensors):.3g}"
        table.add_row(Text(judgement, style=style), Text(f"weights {kind}"), Text(told))
    out.print(table)
    how = "all of it" if proof.full else f"{size(proof.nbytes)} of it"
    out.print(Text(proof.verdict.value, style=_STYLE[proof.verdict.value]), Text(f"{proof.reason} (read: {how})"))
