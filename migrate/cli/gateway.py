"""`migrate gateway`: Ollama's API in front of vLLM, and the verbs of a cut-over: shadow, canary, promote, rollback.

The verbs here edit the state file that the configuration names; running gateways see it within half a second, and none
has to run.
"""

from __future__ import annotations

import os
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from migrate.cli import options
from migrate.cli.output import console, hint, print_json, say
from migrate.errors import Refused, UsageError

if TYPE_CHECKING:
    from migrate.gateway.config import Config
    from migrate.gateway.routes import Configured
    from migrate.gateway.shadow_journal import Row
    from migrate.gateway.shadow_report import ShadowReport
    from migrate.gateway.state import Phase, State
    from migrate.parity.report import ParityReport

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Ollama's API in front of vLLM: nothing changes for clients; cut over in steps, and back with one command.",
)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="gateway.yaml, or a bundle.")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="As clients call it.")]
SEEN = "running gateways see it within half a second"


@app.command("serve", short_help="Answer Ollama's clients with vLLM.")
def serve(
    config_file: ConfigFile,
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, metavar="N", help="Processes that answer.")] = 1,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log lines as JSON objects.")] = False,
) -> None:
    """Answer Ollama's clients with vLLM, at the address of the configuration, until Ctrl-C.

    Servers that are not up yet are waited for; one that serves another model than configured is refused.
    """
    from migrate.gateway import server
    from migrate.gateway.config import load

    config = load(config_file)
    server.logs(debug=os.environ.get("MIGRATE_DEBUG", "") not in ("", "0"), as_json=log_json)

    def started(address: str) -> None:
        say(f"answering Ollama's clients at {address}; end with Ctrl-C")
        if config.host not in ("localhost", "::1") and not config.host.startswith("127.") and not config.api_keys_env:
            say("warning: whoever reaches this address may use the models; name keys with `api_keys_env`")
        hint(f"migrate gateway status {shlex.quote(str(config_file))}")

    server.serve(config_file, workers=workers, on_start=started)


@app.command("status", short_help="Who answers for each model.")
def status(config_file: ConfigFile, as_json: options.Json = False) -> None:
    """Who answers for each model, since when, and by whose decision."""
    from migrate.gateway.config import load
    from migrate.gateway.routes import configured
    from migrate.gateway.state import StateFile, described

    config = load(config_file)
    state = StateFile(config.state_path).read()
    rows = [_status_row(model, state) for model in configured(config)]
    names = {row["model"] for row in rows}
    if forgotten := sorted(state.models.keys() - names):
        say(f"note: the state also has {', '.join(forgotten)}, which the configuration does not have")
    if as_json:
        print_json({"schema_version": 1, "state": str(config.state_path), "models": rows})
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(show_edge=False, pad_edge=False)
    for column in ("model", "phase", "Ollama", "vLLM", "since", "by"):
        table.add_column(column, overflow="fold")
    for row in rows:
        change = state.of(row["model"])
        phase = described(change) if change is not None and row["source"] else row["phase"]
        since = f"{change.since:%Y-%m-%d %H:%M:%S}Z" if change is not None else "-"
        table.add_row(*map(Text, (row["model"], phase, row["source"] or "-", row["target"], since, row["by"])))
    console().print(table)
    if returned := [row["model"] for row in rows if row["by"].startswith("automatic")]:
        say(f"returned by itself: {', '.join(returned)}; it stays with Ollama until you send it on")


def _status_row(model: Configured, state: State) -> dict[str, Any]:
    route, change = model.route, state.of(model.route.name)
    history = state.models[route.name].history if route.name in state.models else ()
    return {
        "model": route.name,
        "phase": route.phase(state),
        "weight": change.weight if change is not None else 0.0,
        "fraction": change.fraction if change is not None else None,
        "since": change.since.isoformat().replace("+00:00", "Z") if change is not None else None,
        "by": change.by if change is not None else "default",
        "source": route.source,
        "target": route.target,
        "history": [past.model_dump(mode="json") for past in history],
    }


@app.command("shadow", short_help="Ollama answers, vLLM gets copies.")
def shadow(
    config_file: ConfigFile,
    model: ModelName,
    fraction: Annotated[
        float | None,
        typer.Option("--fraction", min=0, max=1, metavar="SHARE", help="Of requests (default: the configuration's)."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Ollama answers; copies of its requests go to vLLM in the background, within the budget of the configuration, and
    both answers are compared. Clients notice nothing."""
    config, names = _chosen(config_file, [model])
    _decide(config, names, "shadow", fraction=fraction, as_json=as_json)
    hint(f"migrate gateway report {_shown(config_file)} {names[0]}")


@app.command("canary", short_help="A share of conversations goes to vLLM.")
def canary(
    config_file: ConfigFile,
    model: ModelName,
    weight: Annotated[
        float, typer.Option("--weight", min=0, max=100, metavar="PCT", help="Percent of conversations for vLLM.")
    ],
    as_json: options.Json = False,
) -> None:
    """That share of conversations is answered by vLLM, each of them by one side throughout. A higher weight only moves
    conversations to vLLM. Errors or slow answers there return the model to Ollama by themselves."""
    config, names = _chosen(config_file, [model])
    _decide(config, names, "canary", weight=weight, as_json=as_json)
    file = _shown(config_file)
    hint(f"migrate gateway promote {file} {names[0]} (or back: migrate gateway rollback {file} {names[0]})")


@app.command("promote", short_help="vLLM answers everything.")
def promote(
    config_file: ConfigFile,
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Default: every model.")] = None,
    as_json: options.Json = False,
) -> None:
    """vLLM answers everything for the model, or for all of them. Ollama stays configured: it is the way back."""
    config, names = _chosen(config_file, [model] if model is not None else [])
    _decide(config, names, "target", as_json=as_json)
    hint(f"leave Ollama running for a while: migrate gateway rollback {_shown(config_file)} goes back at once")


@app.command("rollback", short_help="Ollama answers everything again.")
def rollback(
    config_file: ConfigFile,
    models: Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...", help="Default: every model.")] = None,
    as_json: options.Json = False,
) -> None:
    """Ollama answers everything again, for the models or for all of them. Needs neither a running gateway nor vLLM, no
    bundle that can be read, and no state: a damaged one is moved aside."""
    _set_aside(config_file)
    config, names = _chosen(config_file, models or [], lenient=True)
    _decide(config, names, "source", as_json=as_json)
    hint(f"migrate gateway status {_shown(config_file)}")


def _set_aside(config_file: Path) -> None:
    from migrate.errors import BadInput
    from migrate.gateway.config import load
    from migrate.gateway.state import StateFile

    state = StateFile(load(config_file).state_path)
    try:
        state.read()
    except BadInput as error:
        say(f"note: {error}")
        say(f"note: it is now {state.set_aside()}; models that are not named here are in their first phase")


def _chosen(config_file: Path, wanted: list[str], *, lenient: bool = False) -> tuple[Config, list[str]]:
    """The configuration, and the names in the state of the models that are meant: those with an Ollama, if none is
    named. `lenient`: bundles that cannot be read are told, and names are taken as they are."""
    from migrate.gateway.config import load
    from migrate.gateway.routes import configured, known_names, require
    from migrate.gateway.state import StateFile, canonical

    config = load(config_file)
    if lenient:
        known, told = known_names(config, StateFile(config.state_path).read())
        for line in told:
            say(f"note: {line}")
        if told or not wanted:
            names = [canonical(name) for name in wanted] or list(known)
            if not names:
                hint = "name the models" if told else "give it a `source` in the configuration"
                raise Refused("no model with an Ollama to go back to is known", hint=hint)
            return config, names
    models = configured(config)
    chosen = [require(models, name).route for name in wanted] or [model.route for model in models]
    if wanted and (alone := [route.name for route in chosen if route.source is None]):
        raise Refused(
            f"{', '.join(alone)}: the configuration names no Ollama for it, so vLLM answers everything",
            hint="give the model a `source` in the configuration",
        )
    names = list(dict.fromkeys(route.name for route in chosen if route.source is not None))
    if not names:
        raise Refused("no model has an Ollama beside vLLM: there is nothing to cut over")
    return config, names


def _decide(
    config: Config,
    names: list[str],
    phase: Phase,
    *,
    weight: float = 0.0,
    fraction: float | None = None,
    as_json: bool,
) -> None:
    from migrate.gateway.state import StateFile, described

    def change(state: State) -> State:
        for name in names:
            state = state.changed(name, phase, weight=weight, fraction=fraction)
        return state

    state = StateFile(config.state_path).update(change)
    if as_json:
        rows = [{"model": name, **state.models[name].model_dump(mode="json", exclude={"history"})} for name in names]
        print_json({"schema_version": 1, "state": str(config.state_path), "models": rows})
    else:
        for name in names:
            print(f"{name}: {described(state.models[name])}")
    say(f"{config.state_path} is written; {SEEN}")


def _shown(path: Path) -> str:
    return shlex.quote(str(path))


@app.command("report", short_help="What shadowing found.")
def report(
    config_file: ConfigFile,
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Default: every model.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="DURATION", help="Only requests of the last 90m, 12h, 7d.")
    ] = None,
    parity: Annotated[
        bool, typer.Option("--parity", help="Run parity's layers on the requests that were kept in full, too.")
    ] = False,
    budget: Annotated[int, typer.Option("--budget", min=1, metavar="N", help="With --parity: requests at most.")] = 50,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="With --parity: its report (default: BUNDLE/proof/...)."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Sum up the journal of shadowed requests, as Markdown.

    Ends with 0 (pass), 1 (fail) or 4 (inconclusive: too little to decide).
    """
    from migrate.gateway.config import load
    from migrate.gateway.routes import configured, require
    from migrate.gateway.shadow_journal import journal_path, read_journal
    from migrate.gateway.shadow_report import summarize, to_markdown

    if output is not None and not parity:
        raise UsageError("-o is about --parity, which is not given")
    config = load(config_file)
    models = configured(config)
    chosen = [require(models, model)] if model is not None else [m for m in models if m.route.source is not None]
    if parity and len(chosen) != 1:
        raise UsageError("--parity is about one model", hint="name it behind the configuration")
    after = _after(since)
    journal = journal_path(config.state_path)
    summaries: list[dict[str, Any]] = []
    exit_codes: list[int] = []
    for one in chosen:
        rows = [row for row in read_journal(journal, one.route.name) if after is None or row.time >= after]
        proof = _prove(config, one, rows, output, budget) if parity else None
        found = summarize(one.route.name, rows, config.shadow, proved=proof is not None and proof[0].exit_code == 0)
        exit_codes += [found.exit_code, *([proof[0].exit_code] if proof is not None else [])]
        summaries.append(_as_json(found, proof))
        if not as_json:
            print(to_markdown(found))
            if proof is not None:
                print(f"parity: {proof[0].verdict.value}: {proof[0].reason}\n")
    if as_json:
        print_json({"schema_version": 1, "journal": str(journal), "models": summaries})
    if not chosen:
        say("no model has an Ollama beside vLLM: nothing is shadowed")
    _what_next(config_file, chosen, exit_codes)
    raise typer.Exit(1 if 1 in exit_codes else 4 if 4 in exit_codes or not exit_codes else 0)


def _after(since: str | None) -> datetime | None:
    from migrate.cli.record import parse_duration

    return datetime.now(UTC) - timedelta(seconds=parse_duration(since)) if since is not None else None


def _prove(
    config: Config, model: Configured, rows: list[Row], output: Path | None, budget: int
) -> tuple[ParityReport, list[Path]]:
    from migrate.gateway.shadow_parity import Sides, new_directory, prove

    route = model.route
    if route.source is None:
        raise UsageError(f"{route.name} has no Ollama to compare with")
    target = config.upstreams[route.target]
    sides = Sides(model.bundle, config.upstreams[route.source].urls[0], target.urls[0], model.served, target.api_key)
    directory = output if output is not None else new_directory(model.bundle)
    done, written = prove(rows, sides, directory, budget=budget, say=say)
    for path in written:
        say(f"parity report: {path}")
    return done, written


def _as_json(found: ShadowReport, proof: tuple[ParityReport, list[Path]] | None) -> dict[str, Any]:
    row = found.model_dump(mode="json")
    if proof is not None:
        done, written = proof
        row["parity"] = {
            "verdict": done.verdict.value,
            "reason": done.reason,
            "files": [str(path) for path in written],
        }
    return row


def _what_next(config_file: Path, chosen: list[Configured], exit_codes: list[int]) -> None:
    if len(chosen) != 1:
        return
    name, file = chosen[0].route.name, _shown(config_file)
    if set(exit_codes) == {0}:
        hint(f"migrate gateway canary {file} {name} --weight 5")
    elif 1 not in exit_codes:
        hint(f"migrate gateway shadow {file} {name}, until there is enough to decide")
