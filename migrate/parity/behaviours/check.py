"""The layer: every probe once, in order."""

from __future__ import annotations

from collections.abc import Mapping

from migrate.parity.behaviours import delivery, formats, limits
from migrate.parity.behaviours.probe import Probe
from migrate.parity.case import Run
from migrate.parity.report import Check, Difference, LayerName, LayerReport

PROBES: Mapping[str, Probe] = {
    "max tokens": limits.max_tokens,
    "max tokens of the model": limits.max_tokens_of_the_model,
    "stop in the request": limits.stop_of_the_request,
    "stop strings of the model": limits.stops_of_the_model,
    "JSON mode": formats.json_mode,
    "JSON schema": formats.json_schema,
    "text beyond ASCII": formats.unicode_stream,
    "tool calls": formats.tool_calls,
    "reasoning": formats.thinking,
    "streaming": delivery.streaming,
    "seeds": delivery.seeds,
    "many at once": delivery.at_once,
    "penalties": delivery.penalties,
    "empty input": limits.empty_input,
    "context overflow": limits.context_overflow,
    "still alive": limits.still_alive,
}


def check(run: Run) -> LayerReport:
    """Runs the probes. What could not be decided is told, and is not a pass of that behaviour."""
    report = LayerReport(name=LayerName.BEHAVIOURS, status="pass", summary="")
    run.each(run.source_answer, [case for case in run.open_cases if case.target_ids])
    for number, (name, probe) in enumerate(PROBES.items(), start=1):
        run.step(number, len(PROBES))
        found = probe(run)
        report.checks.append(Check(name=name, result=found.result, detail=found.detail))
        if found.result == "different":
            report.differences.append(
                Difference(conversation=name, reason=found.detail, source=found.source, target=found.target)
            )
        elif found.result == "told":
            report.deviations.append(f"{name}: {found.detail}")
    unknown = sum(check.result == "unknown" for check in report.checks)
    report.compared = len(report.checks) - unknown
    report.agreed = report.compared - len(report.differences)
    if unknown:
        names = ", ".join(check.name for check in report.checks if check.result == "unknown")
        report.notes.append(f"could not be decided with this model and these servers: {names}")
    if report.differences:
        report.status = "fail"
        report.summary = f"{len(report.differences)} of {report.compared} behaviours differ; "
        report.summary += f"{report.differences[0].conversation}: {report.differences[0].reason}"
    elif not report.compared:
        report.status, report.summary = "inconclusive", "no behaviour could be compared"
    else:
        report.summary = f"{report.compared} behaviours are as clients know them" + (
            f", {unknown} could not be decided" if unknown else ""
        )
    return report
