"""TEMPLATE, RENDERER and tools: the prompt vLLM makes, and the parser that reads tool calls out of its answers."""

from __future__ import annotations

from collections.abc import Callable

from migrate import chat_template
from migrate.errors import Refused, TemplateError
from migrate.findings import Ledger, Status
from migrate.ollama import capabilities
from migrate.ollama.model import OllamaModel
from migrate.ollama.prompt_path import PromptPathDecision
from migrate.vllm import tool_parsers
from migrate.vllm.serve import Argument


def map_chat_template(
    model: OllamaModel, path: PromptPathDecision, ledger: Ledger, *, bos: bool, own_template: bool
) -> str | None:
    """The Jinja chat template of the bundle; None, with the reason in the ledger, when there is none."""
    ledger.extend(path.notes)
    own = model.gguf.chat_template if model.gguf else None
    if own_template:
        if own is None:
            ledger.add("TEMPLATE", Status.REFUSED, "", "", "--chat-template own: the GGUF carries no chat template")
            return None
        ledger.add("TEMPLATE", Status.APPROXIMATE, path.path, "the GGUF's own Jinja",
                   "as asked with --chat-template own: not what Ollama renders")  # fmt: skip
        return _translated(lambda: chat_template.native(own, system=model.system, messages=model.messages), ledger)
    if path.path == "renderer":
        ledger.add(
            "RENDERER",
            Status.REFUSED,
            model.renderer or "",
            "",
            f"the prompt is made by Ollama's built-in renderer {model.renderer!r}, compiled into Ollama: there is no "
            "template to translate",
            "pass --chat-template own to use the Jinja inside the GGUF instead, and compare with `migrate parity`",
        )
        return None
    if path.path == "gguf_jinja":
        if own is None:
            ledger.add("TEMPLATE", Status.DROPPED, "none", "none", "neither the model nor the GGUF has a chat template",
                       "use /v1/completions, or pass a template to vllm serve with --chat-template")  # fmt: skip
            return None
        ledger.add("TEMPLATE", Status.EXACT, "the GGUF's own Jinja", "chat_template.jinja", path.reason)
        return _translated(lambda: chat_template.native(own, system=model.system, messages=model.messages), ledger)
    template = model.template or "{{ .Prompt }}"
    ledger.add("TEMPLATE", Status.EQUIVALENT, "Go template", "chat_template.jinja", path.reason)
    return _translated(
        lambda: chat_template.translate(template, system=model.system, messages=model.messages, bos=bos), ledger
    )


def _translated(make: Callable[[], chat_template.Translation], ledger: Ledger) -> str | None:
    """Runs a translation; a refusal, or a template that does not parse, becomes a finding."""
    try:
        translation = make()
    except (Refused, TemplateError) as error:
        ledger.add("TEMPLATE", Status.REFUSED, "", "", str(error), error.hint or "")
        return None
    ledger.extend(translation.findings)
    return translation.jinja


def map_tools(model: OllamaModel, path: PromptPathDecision, ledger: Ledger) -> list[Argument]:
    """The tool-call parser, for models that take tools. Without one vLLM answers requests with tools with 400."""
    if "tools" not in capabilities.capabilities(model, path.path):
        return []
    text = model.template if path.path in ("go_template", "parser") else capabilities.jinja_template(model)
    found = "tool calls found by name and JSON"
    if parser := tool_parsers.choose(text or ""):
        reason = f"the template writes calls as {parser.syntax}; vLLM's parser is stricter than Ollama's search"
        ledger.add("tools", Status.APPROXIMATE, found, f"tool-call-parser {parser.name}", reason)
        return [
            Argument("enable-auto-tool-choice", True, "the template takes tools"),
            Argument("tool-call-parser", parser.name, f"the template's own syntax: {parser.syntax}"),
        ]
    reason = "no parser of vLLM's is known to read this template's tool calls: requests with tools get a 400"
    action = "choose one with --tool-call-parser and --enable-auto-tool-choice, or send tool_choice none"
    ledger.add("tools", Status.DROPPED, found, "", reason, action)
    return []
