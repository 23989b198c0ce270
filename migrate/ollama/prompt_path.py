"""Which of Ollama's four ways of making a prompt is live for a model, and why (server/images.go, server/routes.go).

A TEMPLATE in the Modelfile does not settle it: a RENDERER goes first, and since 0.30 the Jinja template inside the GGUF
wins over a Go template that can do less.
"""

from __future__ import annotations

from dataclasses import dataclass

from migrate.findings import Finding, Status
from migrate.ollama import capabilities as caps
from migrate.ollama.autodetect import built_in_template
from migrate.ollama.model import OllamaModel, PromptPath
from migrate.ollama.options import resolve

_NATIVE_SINCE = (0, 30, 0)
"""First version that lets llama.cpp render the GGUF's Jinja template."""


@dataclass(frozen=True, slots=True)
class PromptPathDecision:
    """`reason` is one sentence; `notes` say what that means for parts of the Modelfile that have no effect."""

    path: PromptPath
    reason: str
    notes: tuple[Finding, ...] = ()


def prompt_path(
    model: OllamaModel, *, go_template_env: str | None = None, version: str | None = None
) -> PromptPathDecision:
    """The path /api/chat takes.

    `go_template_env` is the server's OLLAMA_GO_TEMPLATE (None or "": not set); `version` its version, by default the
    model's or the newest known. A server that was asked (`model.selected_template`) has the last word.
    """
    if model.renderer:
        reason = f"RENDERER {model.renderer}: Ollama's own code writes the prompt"
        return PromptPathDecision("renderer", reason, _unused_template(model, "the RENDERER goes first"))
    if model.parser:
        return PromptPathDecision(
            "parser", f"PARSER {model.parser} reads the answers, so {_go_text(model)} is rendered"
        )
    if caps.uses_harmony(model):
        return PromptPathDecision(
            "parser", "gpt-oss with harmony tags in its TEMPLATE: rendered, answers read as harmony"
        )
    if resolve(version or model.ollama_version) < _NATIVE_SINCE:
        return PromptPathDecision("go_template", f"before Ollama 0.30 {_go_text(model)} is always rendered")
    if caps.is_embedding(model):
        return PromptPathDecision("gguf_jinja", "an embedding model: it has no chat, texts go in as they are")
    if model.template is None:
        return _native(model)
    return _go_or_jinja(model, model.template, _switch(go_template_env))


def _go_or_jinja(model: OllamaModel, template: str, switch: bool | None) -> PromptPathDecision:
    jinja = caps.jinja_template(model)
    if model.selected_template is not None:
        if model.selected_template == template:
            return _go(model, "the server says its TEMPLATE is live")
        return _overruled(model, "the server uses the GGUF's own template instead of TEMPLATE")
    if switch is not None:
        if switch:
            return _go(model, "there is a TEMPLATE and OLLAMA_GO_TEMPLATE is on")
        return _overruled(model, "OLLAMA_GO_TEMPLATE is off, so the GGUF's own template is used")
    if jinja and prefers_jinja(jinja, template):
        return _overruled(model, _why_jinja(jinja, template))
    why = "the GGUF's own template can do no more" if jinja else "the GGUF has no template of its own"
    return _go(model, f"there is a TEMPLATE, and {why}")


def prefers_jinja(jinja: str, go: str) -> bool:
    """Ollama's rule: the GGUF's template wins if it can do more, or as much and prints tool calls *and* results where
    the Go template does not; never if only the Go template prints them.
    """
    jinja_caps, go_caps = caps.of_jinja(jinja), caps.of_go(go)
    if len(jinja_caps) > len(go_caps):
        return not caps.go_has_tool_round_trip(go) or caps.jinja_has_tool_round_trip(jinja)
    if jinja_caps != go_caps or "tools" not in jinja_caps:
        return False
    return caps.jinja_has_tool_round_trip(jinja) and not caps.go_has_tool_round_trip(go)


def _why_jinja(jinja: str, go: str) -> str:
    more = sorted(caps.of_jinja(jinja) - caps.of_go(go))
    what = f"knows {' and '.join(more)}, which TEMPLATE does not" if more else "prints tool results, TEMPLATE does not"
    return f"the GGUF's own template {what}; Ollama prefers it without a word"


def _go(model: OllamaModel, reason: str) -> PromptPathDecision:
    named = built_in_template(model.template)
    if named is None or not caps.jinja_template(model):
        return PromptPathDecision("go_template", reason)
    note = Finding(
        "TEMPLATE",
        Status.EXACT,
        source=f"Ollama's built-in {named}",
        reason=f"the text of Ollama's built-in {named}, which `ollama create` adds by itself when a GGUF has a "
        "similar Jinja template; the GGUF's own is not used: neighbouring messages of one role are joined, and what "
        "else the Jinja does (tools, dates, trimming) does not happen",
    )
    return PromptPathDecision("go_template", reason, (note,))


def _overruled(model: OllamaModel, reason: str) -> PromptPathDecision:
    return PromptPathDecision("gguf_jinja", reason, _unused_template(model, reason))


def _native(model: OllamaModel) -> PromptPathDecision:
    if not caps.jinja_template(model):
        known = model.gguf is not None
        missing = "and the GGUF has none either" if known else "and the server does not tell the GGUF's"
        return PromptPathDecision("gguf_jinja", f"there is no TEMPLATE {missing}: llama.cpp falls back to ChatML")
    notes: tuple[Finding, ...] = ()
    if model.kind in ("modelfile", "gguf") and model.parent is None:
        note = Finding(
            "TEMPLATE",
            Status.EQUIVALENT,
            source="none",
            target="the GGUF's own template",
            reason="where the GGUF's template resembles one it knows, `ollama create` adds a Go template and stops "
            "of its own; a Modelfile does not show that",
            action="If the model exists in Ollama, name it instead of its Modelfile.",
        )
        notes = (note,)
    return PromptPathDecision("gguf_jinja", "there is no TEMPLATE: llama.cpp renders the GGUF's own", notes)


def _unused_template(model: OllamaModel, why: str) -> tuple[Finding, ...]:
    if model.template is None or model.template.strip() == caps.DEFAULT_TEMPLATE:
        return ()
    named = built_in_template(model.template)
    source = f"Ollama's built-in {named}" if named else f"{len(model.template)} characters"
    return (Finding("TEMPLATE", Status.DROPPED, source=source, reason=f"Ollama does not use it for chat: {why}"),)


def _go_text(model: OllamaModel) -> str:
    return "the TEMPLATE" if model.template is not None else f"the default {caps.DEFAULT_TEMPLATE}"


def _switch(text: str | None) -> bool | None:
    """OLLAMA_GO_TEMPLATE as Ollama reads a boolean: what is set and not a Go boolean counts as true."""
    value = (text or "").strip().strip("'\"")
    if not value:
        return None
    return value not in ("0", "f", "F", "false", "FALSE", "False")
