"""`migrate plan REF|BUNDLE|--config FILE`: will it fit, how many, what rate, which GPU, what does it cost a month."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from migrate.cli import options
from migrate.cli.output import console, hint, print_json, say
from migrate.cli.plan_load import bundle_at, existing, load_of
from migrate.errors import BadInput, UsageError

if TYPE_CHECKING:
    from migrate.plan.advise import Model, Row, Wanted
    from migrate.plan.gpus import Gpu
    from migrate.plan.prefix import PrefixShare
    from migrate.plan.sets import Together
    from migrate.plan.source import Named
    from migrate.plan.throughput import Efficiency

MAX_REPORT_BYTES = 256 << 20


def command(
    refs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[REF|BUNDLE]...",
            help="A bundle, a checkpoint directory, or a model of Ollama's as for inspect; several on one server.",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="A config.json, without any weights.")
    ] = None,
    gpu: Annotated[
        list[str] | None, typer.Option("--gpu", metavar="NAME", help="Only this GPU; may be repeated (default: all).")
    ] = None,
    gpus: Annotated[
        Path | None, typer.Option("--gpus", metavar="FILE", help="GPUs and prices of your own, on top of the table.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", metavar="RATE", help="What it has to carry: 500/min or 8/s.")
    ] = None,
    slo: Annotated[
        str | None,
        typer.Option("--slo", metavar="LIMITS", help="Mean times allowed: ttft=2s,itl=100ms,e2e=30s, or none."),
    ] = "ttft=2s,itl=100ms",
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="DOLLARS", help="Most it may cost: 1000/month or 1.37/h.")
    ] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option("--prompt-tokens", min=1, max=10_000_000, metavar="N", help="Of a request, mean.")
    ] = None,
    output_tokens: Annotated[
        int | None, typer.Option("--output-tokens", min=1, max=10_000_000, metavar="N", help="Of an answer, mean.")
    ] = None,
    requests: Annotated[
        Path | None,
        typer.Option("--requests", metavar="PATH", help="Your requests: lengths and shared prefixes come from them."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", metavar="WAY", help="dense, repack, requantize, fp8, int8 or int4 (default: as is)."),
    ] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", metavar="DTYPE", help="bfloat16, float16 or float32.")] = None,
    max_model_len: options.MaxModelLen = None,
    kv_cache_dtype: Annotated[str, typer.Option("--kv-cache-dtype", metavar="auto|fp8", help="As for vLLM.")] = "auto",
    utilization: Annotated[
        float, typer.Option("--gpu-memory-utilization", min=0.01, max=1, metavar="SHARE", help="As for vLLM.")
    ] = 0.92,
    max_num_seqs: Annotated[
        int | None, typer.Option("--max-num-seqs", min=1, max=65536, metavar="N", help="As for vLLM.")
    ] = None,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option("--max-num-batched-tokens", min=1, max=1 << 20, metavar="N", help="As for vLLM.")
    ] = None,
    instances: Annotated[
        int | None,
        typer.Option("--instances-per-gpu", min=1, max=8, metavar="N", help="As you say, instead of the rule."),
    ] = None,
    density_gain: Annotated[
        float | None,
        typer.Option(
            "--density-gain",
            min=-0.9,
            max=4,
            metavar="SHARE",
            help="What two on one GPU gained in your measurement: 0.2.",
        ),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            "--calibrate", metavar="URL|REPORT", help="Measure a running vLLM (or read report.json) on the one --gpu."
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Every figure with its formula and the values in it.")
    ] = False,
    models_dir: options.ModelsDir = None,
    host: options.Host = None,
    as_json: options.Json = False,
) -> None:
    """Will it fit, how many instances, what rate, which GPU, and what does it cost a month.

    Ends with 0 when a GPU of the table does it, with 3 when none does.
    """
    from migrate.plan import advise
    from migrate.plan import gpus as tables
    from migrate.plan.cost import parse_budget
    from migrate.plan.memory import ServerSettings

    ref = refs[0] if refs else None
    if (ref is None) == (config is None):
        raise UsageError("plan what?", hint="name a model, a bundle or a checkpoint directory, or pass --config FILE")
    if dtype not in (None, "bfloat16", "float16", "float32"):
        raise UsageError(f"--dtype {dtype}: must be bfloat16, float16 or float32")
    if kv_cache_dtype not in ("auto", "fp8"):
        raise UsageError(f"--kv-cache-dtype {kv_cache_dtype}: must be auto or fp8")
    level, wanted_rate, most = _level(slo), _rate(rate), None if budget is None else parse_budget(budget)
    table = tables.select(tables.load(gpus), gpu or [])
    together = None
    if len(set(refs or ())) > 1:
        named, together = _set(refs or [], weights, dtype, models_dir, host)
    else:
        named = _named(ref, config, weights, dtype, models_dir, host)
        together = _set_of(ref)
    model = together.loaded(named.model) if together else named.model
    if not named.model.layers:
        output_tokens = output_tokens or 1  # an embedding model answers with a vector
    context = max_model_len or named.max_model_len
    load, share, notes = load_of(ref, requests, prompt_tokens, output_tokens, context)
    longest = named.model.config.integer("max_position_embeddings", context)
    if context > longest:
        notes.append(
            f"a context of {context:,} is more than the model's {longest:,}: vLLM starts with it only where rope "
            "scaling reaches so far, or VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 is set"
        )
    wanted = advise.Wanted(
        load=load,
        settings=ServerSettings(context, utilization, max_num_seqs, max_num_batched_tokens),
        level=level,
        rate=wanted_rate,
        budget=most,
        kv_cache_dtype=kv_cache_dtype,
        instances_per_gpu=instances,
        density_gain=density_gain,
    )
    if calibrate is not None:
        wanted = _calibrated(calibrate, model, wanted, table)
    rows = advise.advise(model, wanted, table)
    if as_json:
        content = _json(model, wanted, rows, share, notes)
        print_json(content | ({"set": together.to_dict(model, rows)} if together else {}))
    else:
        notes += together.sentences(model, rows) if together else []
        _show(model, wanted, rows, share, notes, explain=explain)
        path = existing(ref)
        checkpoint = path is not None and path.is_dir()  # `convert` takes what Ollama has
        if any(row.wins for row in rows) and ref is not None and bundle_at(ref) is None and not checkpoint:
            hint(f"migrate convert {' '.join(refs or [])} -o out/")
    raise typer.Exit(0 if any(row.wins for row in rows) else 3)


def _named(
    ref: str | None, config: Path | None, way: str | None, dtype: str | None, models_dir: Path | None, host: str | None
) -> Named:
    from migrate.bundle import format as bundle_format
    from migrate.plan import source

    if config is not None:
        return source.from_config(config, way, dtype)
    assert ref is not None
    path, root = existing(ref), bundle_at(ref)
    if root is not None:
        manifest = bundle_format.read(root)
        model_dir = _inside(root, manifest.model_dir)
        return source.from_directory(
            model_dir, way, dtype, name=manifest.source.name, max_model_len=manifest.target.max_model_len
        )
    if path is not None and path.is_dir() and (path / "config.json").is_file():
        return source.from_directory(path, way, dtype)
    from migrate.cli.inspect import _load as load_model
    from migrate.mapping.migration import Choices, plan

    return source.from_migration(plan(load_model(ref, models_dir, host), Choices(dtype=dtype)), way)


def _set(
    refs: list[str], way: str | None, dtype: str | None, models_dir: Path | None, host: str | None
) -> tuple[Named, Together]:
    """Models of Ollama's that one server can have. Raises UsageError for others."""
    from dataclasses import replace

    from migrate.cli import sets
    from migrate.mapping.migration import Choices
    from migrate.plan import source
    from migrate.plan.sets import Together

    if bundles := [ref for ref in refs if bundle_at(ref) is not None]:
        raise UsageError(f"{bundles[0]} is a bundle: plan it alone", hint="a bundle has its models already")
    found = sets.find(refs, lambda ref: Choices(dtype=dtype), every=False, models_dir=models_dir, host=host)
    if len(found.groups) > 1:
        apart = next((group.apart for group in found.groups if group.apart), "they are not on the same weights")
        first, second = (group.migrations[0].model.name for group in found.groups[:2])
        raise UsageError(f"{first} and {second} need servers of their own: {apart}", hint="plan each alone")
    migrations = found.groups[0].migrations
    named = source.from_migration(migrations[0], way)
    named = replace(named, max_model_len=max(m.max_model_len for m in migrations) or named.max_model_len)
    files = {
        path: path.stat().st_size for m in migrations if m.adapter and not m.adapter.merged for path in m.adapter.files
    }
    return named, Together(tuple(m.model.name for m in migrations), sum(files.values()))


def _set_of(ref: str | None) -> Together | None:
    """What a bundle of several models says of them."""
    from migrate.bundle import format as bundle_format
    from migrate.plan.sets import Together

    root = bundle_at(ref)
    variants = bundle_format.read(root).variants if root is not None else []
    if root is None or not variants:
        return None
    files = bundle_format.read(root).files
    directories = {variant.adapter for variant in variants if variant.adapter}
    size = sum(
        e.size
        for name, e in files.items()
        if name.endswith(".safetensors") and Path(name).parent.as_posix() in directories
    )
    return Together(tuple(variant.name for variant in variants), size)


def _inside(bundle: Path, name: str) -> Path:
    """The bundle's model directory. Raises BadInput when it is none of the bundle's."""
    found = (bundle / name).resolve()
    if not found.is_relative_to(bundle.resolve()):
        raise BadInput(f"{bundle}: model_dir {name!r} points outside the bundle")
    return found


def _rate(text: str | None) -> float | None:
    from migrate.parity.throughput.plan import parse_rate

    return None if text is None else parse_rate(text)


def _level(text: str | None) -> Any:
    from migrate.parity.throughput.plan import Slo
    from migrate.plan.throughput import ServiceLevel

    if text is None or text.strip() == "none":
        return ServiceLevel()
    limits = Slo.parse(text)
    return ServiceLevel(*(None if ms is None else ms / 1000 for ms in (limits.ttft_ms, limits.itl_ms, limits.e2e_ms)))


# ---- calibration ----------------------------------------------------------------------------------------------------


def _calibrated(where: str, model: Model, wanted: Wanted, table: list[Gpu]) -> Wanted:
    from dataclasses import replace

    from migrate.plan import calibrate, throughput

    if len(table) != 1:
        raise UsageError(
            f"--calibrate: which GPU does it run on? {len(table)} are left",
            hint="name exactly one with --gpu, as in the table",
        )
    if where.startswith(("http://", "https://")):
        say(f"calibrating: at most {calibrate.SECONDS:g} s of requests to {where}")
        samples = calibrate.run(where, vocab=model.config.integer("vocab_size"))
    else:
        samples = calibrate.from_report(_report(Path(where)), where)
    item = throughput.cache_item_bytes(model.config, wanted.kv_cache_dtype)
    instance = throughput.Instance(model.config, model.layers, model.weights, table[0], 1, item)
    found: Efficiency = calibrate.fit(instance, samples)
    say(
        f"calibrated: MBU {found.mbu:.2f}, MFU {found.mfu:.3g}, host {found.host * 1000:.2f} ms a step and "
        f"{found.host_per_request * 1e6:.0f} us a request"
    )
    return replace(wanted, measured={table[0].name: calibrate.spread(found)})


def _report(path: Path) -> dict[str, Any]:
    import json

    from migrate.errors import NotFound

    if path.is_dir():
        path = path / "report.json"
    if not path.is_file():
        raise NotFound(f"{path}: no such file", hint="--calibrate takes a URL, or a report.json with throughput")
    if path.stat().st_size > MAX_REPORT_BYTES:
        raise BadInput(f"{path}: larger than {MAX_REPORT_BYTES >> 20} MiB: not a report of ours")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise BadInput(f"{path}: not JSON") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path}: not a report")
    return content


# ---- output ---------------------------------------------------------------------------------------------------------


def _json(model: Model, wanted: Wanted, rows: list[Row], share: PrefixShare | None, notes: list[str]) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "schema_version": 1,
        "model": model.name,
        "architecture": model.config.model_type,
        "dtype": model.config.dtype,
        "parameters": model.weights.parameters,
        "active_parameters": model.weights.active_parameters,
        "weights": {"way": model.weights.way, "bytes": model.weights.nbytes, "exact": model.weights.exact,
                    "ways": dict(model.alternatives)},
        "load": asdict(wanted.load),
        "slo": str(wanted.level),
        "rate_per_minute": wanted.rate,
        "budget_per_month": wanted.budget,
        "max_model_len": wanted.settings.max_model_len,
        "gpu_memory_utilization": wanted.settings.utilization,
        "prefix_share": None if share is None else asdict(share) | {"share": round(share.share, 4)},
        "notes": notes,
        "gpus": [row.to_dict(model) for row in rows],
    }  # fmt: skip


def _show(
    model: Model,
    wanted: Wanted,
    rows: list[Row],
    share: PrefixShare | None,
    notes: list[str],
    *,
    explain: bool,
) -> None:
    from rich.text import Text

    from migrate.plan.terminal import render

    out = console()
    for part in render(model, wanted, rows, explain=explain):
        out.print(part)
    if notes:
        out.print()
    for note in notes:
        out.print(Text(f"note: {note}", style="dim"))
    if share is not None and share.prompts > 1:
        out.print(
            Text(
                "prefix caching is on by default in vLLM: keep what is the same (system prompt, examples, tools) at "
                "the beginning and unchanged, and put what differs (dates, names) behind it",
                style="dim",
            )
        )
