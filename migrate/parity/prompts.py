"""Layer 1: is the prompt that vLLM makes of a conversation the text that Ollama makes of it?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from migrate.engines.base import Conversation
from migrate.errors import BadInput, EngineError, ServerError, TemplateError
from migrate.ollama import capabilities, conversation
from migrate.ollama.template import parse_template, render_chat
from migrate.parity import deviations
from migrate.parity.case import TOO_LONG, Case, Run, is_refusal, is_too_long
from migrate.parity.facts import SourceFacts
from migrate.parity.report import MAX_DIFFERENCES, Difference, LayerName, LayerReport

CONTEXT_CHARACTERS = 30
REFUSAL = "migrate:"
"""How a converted template begins the message of a refusal that is on purpose."""

Renderer = Callable[[Conversation], str]


def check(run: Run) -> LayerReport:
    """Fills `source_text` of every case and compares it with the target's prompt."""
    render = source_renderer(run)
    differences: list[Difference] = []
    notes: list[str] = []
    agreed = compared = meant = 0
    for case in run.open_cases:
        if not _render_source(case, render):
            continue
        difference = _compare(run, case, notes)
        if difference is not None:
            differences.append(difference)
        elif case.excluded:
            meant += 1
            continue
        else:
            agreed += 1
        compared += 1
    report = LayerReport(
        name=LayerName.PROMPT, status="pass", summary="", compared=compared, agreed=agreed, notes=notes
    )
    if long := sum(case.excluded == TOO_LONG for case in run.cases):
        report.deviations.append(f"{long} of {len(run.cases)} conversations are {TOO_LONG}")
    if compared == 0:
        report.status, report.summary = "inconclusive", "no conversation could be rendered on both sides"
    elif differences:
        report.status, report.differences = "fail", differences[:MAX_DIFFERENCES]
        report.summary = f"{len(differences)} of {compared} prompts differ; the first: {differences[0].reason}"
    else:
        report.summary = f"all {compared} prompts are the same text" + (f", {meant} differ as meant" if meant else "")
    return report


def source_renderer(run: Run) -> Renderer:
    """Who says what Ollama would send: a live Ollama itself, else our interpreter or llama.cpp's.

    Raises EngineError when only a live Ollama could tell.
    """
    facts, source = run.bundle.facts.source, run.source
    if source.kind != "llama.cpp":
        return source.render
    if facts.prompt_path == "renderer":
        raise EngineError(
            f"the prompts of {facts.name} are made by code inside Ollama (RENDERER)",
            hint="compare with a live Ollama: --source http://HOST:11434",
        )
    if facts.prompt_path == "gguf_jinja":
        return lambda asked: source.render(_with_defaults(facts, asked))
    return lambda asked: render_go(facts, asked, json_tools=True)


def render_go(facts: SourceFacts, asked: Conversation, *, json_tools: bool) -> str:
    """A conversation through the model's Go template, as /api/chat does it. Raises TemplateError, BadInput."""
    template = parse_template(facts.template if facts.template is not None else "{{ .Prompt }}")
    thinks = "thinking" in capabilities.of_go(facts.template or "")
    think: Any = asked.think if asked.think is not None else (True if thinks else None)
    return render_chat(
        template,
        asked.messages,
        system=facts.system,
        model_messages=facts.messages,
        tools=asked.tools,
        think=think,
        json_tools=json_tools,
        filter_think_tags=facts.architecture == "qwen3" or "deepseek-r1" in facts.name,
    )


def _with_defaults(facts: SourceFacts, asked: Conversation) -> Conversation:
    messages = conversation.ordered(asked.messages, system=facts.system, model_messages=facts.messages)
    return replace(asked, messages=tuple(messages))


def _render_source(case: Case, render: Renderer) -> bool:
    """Whether the source has a prompt for this conversation. Ollama refuses some (400), and so may we."""
    try:
        case.source_text = render(case.conversation)
    except ServerError as error:
        if not is_refusal(error):
            raise
        case.excluded = f"the source refuses it: {error}"
    except (TemplateError, BadInput) as error:
        case.excluded = f"the source refuses it: {error}"
    return not case.excluded


def _compare(run: Run, case: Case, notes: list[str]) -> Difference | None:
    """None when the prompts are the same, or differ in a way that is known and meant."""
    assert case.source_text is not None
    try:
        rendered = run.target.render(case.target_conversation)
    except ServerError as error:
        if not is_refusal(error):
            raise
        if is_too_long(error):
            case.excluded = TOO_LONG
            return None
        case.excluded = f"the target refuses it: {error}"
        if REFUSAL in str(error):
            case.excluded = f"the bundle refuses it on purpose: {error}"
            return None
        return Difference(conversation=case.name, reason=f"the target refuses the conversation: {error}")
    bos = run.bundle.bos_text
    if same_prompt(case.source_text, rendered, bos) or _known_deviation(run, case, rendered):
        return None
    ours, theirs = (deviations.settle_order(run.bundle.facts, text) for text in (case.source_text, rendered))
    if same_prompt(ours, theirs, bos):
        return None
    if case.conversation.is_prefill and _continues(run, case, notes):
        return None
    return first_difference(case.name, case.source_text, rendered, bos)


def same_prompt(source: str, target: str, bos: str | None) -> bool:
    """Ollama's text has no BOS (llama.cpp adds it as a token); vLLM's has it as text. Whether it must be there is for
    the tokens layer."""
    return target == source or (bos is not None and target == bos + source)


def _continues(run: Run, case: Case, notes: list[str]) -> bool:
    """Whether the target agrees once the client says that the last message is the beginning of the answer."""
    told = replace(case.conversation, continue_final=True)
    try:
        rendered = run.target.render(told)
    except ServerError:
        return False
    if not same_prompt(case.source_text or "", rendered, run.bundle.bos_text):
        return False
    case.target_conversation = told
    notes.append(
        f"«{case.name}»: clients that begin the answer themselves have to send continue_final_message=true and "
        "add_generation_prompt=false"
    )
    return True


def _known_deviation(run: Run, case: Case, rendered: str) -> bool:
    """Ollama since 0.14 prints `{{ .Function }}` as a Go struct where the template's author meant JSON.

    Only when our interpreter reproduces exactly both texts is it that, and nothing else.
    """
    facts = run.bundle.facts.source
    if run.source.kind != "ollama" or not case.conversation.tools or facts.prompt_path not in ("go_template", "parser"):
        return False
    try:
        as_struct = render_go(facts, case.conversation, json_tools=False)
        as_json = render_go(facts, case.conversation, json_tools=True)
    except (TemplateError, BadInput):
        return False
    if as_struct != case.source_text or not same_prompt(as_json, rendered, run.bundle.bos_text):
        return False
    case.excluded = "Ollama prints its tools as a Go struct, the bundle as JSON, which is what the template means"
    return True


def first_difference(name: str, source: str, target: str, bos: str | None) -> Difference:
    """Where two prompts part, with what stands around it."""
    if bos and target.startswith(bos) and not source.startswith(bos):
        target = target[len(bos) :]
    at = next(
        (i for i, (a, b) in enumerate(zip(source, target, strict=False)) if a != b), min(len(source), len(target))
    )
    start = max(0, at - CONTEXT_CHARACTERS)
    sides = [_excerpt(text, start, at + CONTEXT_CHARACTERS) for text in (source, target)]
    if at == len(source):
        reason = f"the target's prompt goes on with {target[at : at + 20]!r}"
    elif at == len(target):
        reason = f"the target's prompt ends where the source has {source[at : at + 20]!r}"
    else:
        reason = f"{source[at : at + 12]!r} became {target[at : at + 12]!r}"
    return Difference(conversation=name, reason=reason, position=at, source=sides[0], target=sides[1])


def _excerpt(text: str, start: int, end: int) -> str:
    return ("…" if start else "") + repr(text[start:end]) + ("…" if end < len(text) else "")
