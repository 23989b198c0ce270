"""`migrate convert REF -o DIR`: weights, tokenizer, chat template, parameters and launch files: a bundle."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from migrate.cli import options, sets
from migrate.cli.inspect import _load, choices
from migrate.cli.output import STATUS_STYLE, byte_progress, console, hint, ledger_table, print_json, say, size

if TYPE_CHECKING:
    from migrate.mapping.migration import Choices


def command(
    refs: options.Refs = None,
    every: options.All = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Where the bundle goes.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the ledger, disk and time; write nothing.")] = False,
    models_dir: options.ModelsDir = None,
    host: options.Host = None,
    client: options.Client = "native",
    penalties: options.Penalties = "ollama",
    max_model_len: options.MaxModelLen = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", metavar="float16|bfloat16|float32", help="Of the written weights.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", metavar="DIR|REPO", help="The original tokenizer instead of the GGUF's."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="dense|repack|requantize|auto|original",
            help="Unquantize, keep the blocks, make 8-bit ones, what suits --target-gpu, or the original checkpoint.",
        ),
    ] = None,
    target_gpu: Annotated[
        str | None,
        typer.Option("--target-gpu", metavar="GPU", help="Where it will run: compute capability, name, or cpu."),
    ] = None,
    hf_repo: options.HfRepo = None,
    hf_path: options.HfPath = None,
    merge_adapter: Annotated[
        bool, typer.Option("--merge-adapter", help="Fold the ADAPTER into the weights instead of serving it beside.")
    ] = False,
    chat_template: Annotated[
        str, typer.Option("--chat-template", metavar="ollama|own", help="What Ollama renders, or the GGUF's own Jinja.")
    ] = "ollama",
    tool_call_parser: Annotated[
        str | None,
        typer.Option("--tool-call-parser", metavar="NAME", help="vLLM's; ollama: search as Ollama does; none."),
    ] = None,
    reasoning_parser: Annotated[
        str | None, typer.Option("--reasoning-parser", metavar="NAME", help="vLLM's, or none (default: what fits).")
    ] = None,
    served_name: Annotated[
        str | None, typer.Option("--served-name", metavar="NAME", help="Name clients use (default: the model's).")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port in serve.yaml.")] = 8000,
    bind: Annotated[str, typer.Option("--bind", metavar="HOST", help="Address in serve.yaml.")] = "127.0.0.1",
    deploy: Annotated[
        str | None,
        typer.Option(
            "--deploy", metavar="TARGET,...", help="Files that start it, too (`migrate deploy` has more options)."
        ),
    ] = None,
    vllm_version: Annotated[
        str, typer.Option("--vllm-version", metavar="VERSION", help="Release to write for.")
    ] = "0.32.0",
    ollama_version: options.OllamaVersion = None,
    as_json: options.Json = False,
) -> None:
    """Write a bundle that vLLM serves: checkpoint, chat template, parameters, launch files, runbook.

    Several models on the same weights become one bundle with a name for each; what cannot share a server gets a bundle
    of its own below DIR, and a gateway.yaml stands in front of them.
    """
    from migrate.bundle import write
    from migrate.errors import UsageError
    from migrate.mapping.migration import plan

    if not refs and not every:
        raise UsageError("no model given", hint="name one (`migrate inspect` lists them), or pass --all")
    for value, allowed, name in (
        (dtype, (None, "float16", "bfloat16", "float32"), "--dtype"),
        (chat_template, ("ollama", "own"), "--chat-template"),
        (penalties, ("ollama", "always", "vllm", "none"), "--penalties"),
        (weights, (None, "dense", "repack", "requantize", "auto", "original"), "--weights"),
    ):
        if value not in allowed:
            raise UsageError(f"{name} {value}: must be {' or '.join(a for a in allowed if a)}")
    _check_parser("tool", tool_call_parser, "--tool-call-parser", ("none", "ollama"))
    _check_parser("reasoning", reasoning_parser, "--reasoning-parser", ("none",))
    if not re.fullmatch(r"[0-9A-Za-z.:_-]+", bind):
        raise UsageError(f"--bind {bind!r} is no address")
    if (hf_repo or hf_path) and weights != "original":
        raise UsageError("--hf-repo and --hf-path are for --weights original")
    if weights == "original" and tokenizer is not None:
        raise UsageError("--weights original brings its own tokenizer: --tokenizer has no place")
    if output is None and not dry_run:
        raise UsageError("no output directory given", hint="pass -o DIR, or --dry-run to only look")
    targets = _targets(deploy)

    def choose(ref: str) -> Choices:
        chosen: Choices = choices(
            client=client,
            ollama_version=ollama_version,
            host_url=host,
            name=ref,
            penalties=penalties,
            max_model_len=max_model_len,
            dtype=dtype,
            merge_adapter=merge_adapter,
            weights=weights,
            target_gpu=target_gpu,
            tokenizer=tokenizer,
            own_chat_template=chat_template == "own",
            tool_call_parser=tool_call_parser,
            reasoning_parser=reasoning_parser,
            served_name=served_name,
            port=port,
            host=bind,
            vllm_version=vllm_version,
        )
        return chosen

    if every or len(set(refs or ())) != 1:
        if served_name is not None:
            raise UsageError("--served-name is for one model: several keep their own names")

        def prepare(model: Any) -> Any:
            return _original(model, hf_repo, hf_path, fetch=not dry_run)

        found = sets.find(
            refs or (),
            choose,
            every=every,
            models_dir=models_dir,
            host=host,
            prepare=prepare if weights == "original" else None,
        )
        _several(found, output, targets, every=every, force=force, dry_run=dry_run, as_json=as_json)
        return
    (ref,) = set(refs or ())
    if output is not None:
        write.check_output(output, force=force)
    model, proof = _load(ref, models_dir, host), None
    if weights == "original":
        model, proof = _original(model, hf_repo, hf_path, fetch=not dry_run)
    migration = plan(model, replace(choose(ref), original=proof))
    if dry_run:
        _dry_run(migration, output, as_json)
        return
    assert output is not None
    started = time.perf_counter()
    with byte_progress("weights") as progress:
        written = write.write(migration, output, force=force, progress=progress)
    seconds = time.perf_counter() - started
    for path in _deploy(output, targets):
        say(f"written: {path}")
    if as_json:
        print_json(written.manifest.model_dump(mode="json") | {"path": str(output)})
        return
    _summary(written, migration, seconds)
    hint(f"{output}/serve.sh, then: migrate parity {output} --source URL --target http://127.0.0.1:{port}")


def _several(
    found: sets.Found,
    output: Path | None,
    targets: list[str],
    *,
    every: bool,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """`convert` of more than one model. Ends with 3 when any was left out."""
    if dry_run:
        _dry_run_of_several(found, output, as_json)
    assert output is not None
    sets.tell_groups(found)
    outcome = sets.write_groups(found, output, every=every, force=force, progress=byte_progress)
    for bundle in outcome.bundles:
        for path in _deploy(bundle.path, targets):
            say(f"written: {path}")
    if as_json:
        print_json(outcome.to_dict())
    else:
        for bundle in outcome.bundles:
            say(f"{bundle.path}: {', '.join(bundle.models)}: {size(bundle.written.weight_bytes)} of weights")
            print(bundle.path)
        for left in outcome.left_out:
            say(f"left out: {left.name}: {left.error}" + (f" ({left.error.hint})" if left.error.hint else ""))
        if outcome.gateway is not None:
            hint(f"each bundle's serve.sh, then: migrate gateway serve {outcome.gateway}")
    raise typer.Exit(3 if outcome.left_out else 0)


def _dry_run_of_several(found: sets.Found, output: Path | None, as_json: bool) -> None:
    """What would be written, a line a group; the weights of a group count once. Ends the program."""
    from migrate.bundle import estimate

    rows: list[dict[str, Any]] = []
    for group in found.groups:
        refused = [m.model.name for m in group.migrations if m.refused]
        expected = estimate.estimate(group.migrations[0], output)
        names = [m.model.name for m in group.migrations]
        rows.append({"models": names, "apart": group.apart, "refused": refused} | expected.to_dict())
        if not as_json:
            console().print(f"{', '.join(names)}: {expected.describe()}", markup=False, highlight=False)
            if group.apart:
                console().print(f"  {group.apart}", markup=False, highlight=False)
    if as_json:
        print_json({"schema_version": 1, "groups": rows, "left_out": [left.to_dict() for left in found.left_out]})
    raise typer.Exit(3 if found.left_out or any(row["refused"] for row in rows) else 0)


def _targets(names: str | None) -> list[str]:
    """Raises UsageError for a target that there is not, before anything is converted."""
    from migrate.bundle.deploy import TARGETS
    from migrate.errors import UsageError

    wanted = [name.strip() for name in (names or "").split(",") if name.strip()]
    for name in wanted:
        if name not in TARGETS:
            raise UsageError(f"--deploy {name}: no such target", hint=f"known: {', '.join(TARGETS)}")
    return wanted


def _deploy(bundle: Path, targets: list[str]) -> list[Path]:
    from migrate.bundle import deploy

    if not targets:
        return []
    return deploy.write(deploy.read(bundle), bundle / deploy.DIRECTORY, targets)


def _original(model: Any, hf_repo: str | None, hf_path: Path | None, *, fetch: bool) -> tuple[Any, Any]:
    """The model with its proved original as weights, and the proof. Raises Refused when none is proved."""
    from migrate.cli.resolve import showing
    from migrate.errors import Refused
    from migrate.original.resolve import resolve, with_original

    resolution = resolve(model, hf_repo=hf_repo, hf_path=hf_path, showing=showing)
    last = resolution.attempts[-1]
    proof = resolution.proved or last.proof
    if proof is None:
        raise Refused(f"no original was found: {last.error}", hint=last.hint or "`migrate resolve` shows all attempts.")
    return with_original(model, proof, hf_path, fetch=fetch), proof


def _check_parser(kind: Literal["tool", "reasoning"], name: str | None, option: str, ours: tuple[str, ...]) -> None:
    """A name that the installed vLLM does not know is a mistake; without vLLM here it is taken as it is."""
    from migrate.errors import UsageError
    from migrate.vllm.installed import parser_names

    if name is None or name in ours:
        return
    if not re.fullmatch(r"[0-9A-Za-z._-]+", name):
        raise UsageError(f"{option} {name!r} is no name of a parser")
    known = parser_names(kind)
    if known is not None and name not in known:
        names = f"known: {', '.join(sorted(known))}"
        raise UsageError(f"{option} {name}: the installed vLLM has no such parser", hint=names)


def _summary(written: Any, migration: Any, seconds: float) -> None:
    findings = [f.model_dump() for f in written.manifest.findings]
    notable = [f for f in findings if f["status"] in ("approximate", "dropped")]
    out = console(stderr=True)
    if notable:
        out.print(ledger_table(notable))
    counts = Counter(f["status"] for f in findings)
    counted = ", ".join(f"{counts[s]} {s}" for s in STATUS_STYLE if counts[s])
    say(f"{written.path}: {size(written.weight_bytes)} of {migration.dtype} weights in {seconds:.1f} s; {counted}")
    say(f"read {written.path}/MIGRATION.md")
    print(written.path)


def _dry_run(migration: Any, output: Path | None, as_json: bool) -> None:
    from migrate.bundle import estimate

    expected = estimate.estimate(migration, output)
    findings = [f.to_dict() for f in migration.ledger]
    if as_json:
        print_json({"schema_version": 1, "movable": not migration.refused, "findings": findings} | expected.to_dict())
        raise typer.Exit(3 if migration.refused else 0)
    console().print(ledger_table(findings))
    say(expected.describe())
    if migration.refused:
        from migrate.bundle.write import check_movable

        check_movable(migration)
