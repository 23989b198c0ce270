"""`migrate parity BUNDLE` on a bundle of several models: the others are named, and all can be gone through."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migrate.cli.output import print_json, say
from migrate.errors import UsageError

if TYPE_CHECKING:
    from migrate.parity.case import Settings
    from migrate.parity.facts import Bundle
    from migrate.parity.report import LayerName

EVERY = "all"
Connect = Callable[[str, str], AbstractContextManager[Any]]
"""Name in Ollama, served name -> the engines of both sides."""


def name_the_others(bundle: Bundle, variant: str | None) -> None:
    """Says which model of a set is compared, when nobody chose one."""
    if bundle.variant is not None and variant is None:
        others = ", ".join(v.name for v in bundle.facts.variants if v.name != bundle.variant.name)
        say(f"comparing {bundle.variant.name}; the bundle serves {others}, too: --variant NAME, or {EVERY}")


def compare_all(
    bundle: Path,
    connect: Connect,
    out: Path | None,
    *,
    layers: tuple[LayerName, ...] | None,
    settings: Settings,
    as_json: bool,
) -> int:
    """The files and the prompts of every model (or `layers`), a report each in a directory of its name below `out`.

    Returns the worst of their exit codes.
    """
    from migrate.mapping.variants import path_name
    from migrate.parity.facts import read_bundle
    from migrate.parity.render import write_all
    from migrate.parity.report import LayerName
    from migrate.parity.run import run

    variants = read_bundle(bundle).facts.variants
    if not variants:
        raise UsageError(f"{bundle} has one model", hint="leave --variant out")
    worst, reports = 0, {}
    for variant in variants:
        with connect(variant.source.name, variant.served_model_name[0]) as (ours, theirs, _):
            wanted = layers or (LayerName.ARTEFACT, LayerName.PROMPT)
            report = run(bundle, ours, theirs, layers=wanted, settings=settings, variant=variant.name)
        worst = max(worst, report.exit_code)
        reports[variant.name] = report
        say(f"{variant.name}: {report.verdict.value}: {report.reason}")
        if out is not None:
            directory = out / path_name(variant.name)
            directory.mkdir(parents=True, exist_ok=True)
            write_all(report, directory)
    if as_json:
        rows = {name: report.model_dump(mode="json") for name, report in reports.items()}
        print_json({"schema_version": 1, "variants": rows})
    elif out is not None:
        say(f"reports: {out}")
    return worst
