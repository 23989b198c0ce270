"""TEMPLATE, RENDERER and tools: the prompt vLLM makes, and the parser that reads tool calls out of its answers."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import TypedDict

from migrate import chat_template
from migrate.errors import Refused, TemplateError
from migrate.findings import Ledger, Status
from migrate.gguf.header import GGUFHeader
from migrate.ollama import capabilities, renderer_name
from migrate.ollama.model import OllamaModel
from migrate.ollama.names import ModelName
from migrate.ollama.prompt_path import PromptPathDecision
from migrate.ollama.template import parse_template, thinking_tags
from migrate.ollama.tool_tag import NO_TAG, tool_tag
from migrate.vllm import reasoning_parsers, tool_parsers
from migrate.vllm.serve import Argument


def map_chat_template(
    model: OllamaModel, path: PromptPathDecision, ledger: Ledger, *, bos: bool, own_template: bool
) -> str | None:
    """The Jinja chat template of the bundle; None, with the reason in the ledger, when there is none."""
    ledger.extend(path.notes)
    if own_template:
        return _own(model, path, ledger, bos=bos)
    if path.path == "gguf_jinja":
        if capabilities.jinja_template(model) == "":
            ledger.add("TEMPLATE", Status.DROPPED, "none", "none", "neither the model nor the GGUF has a chat template",
                       "use /v1/completions, or pass a template to vllm serve with --chat-template")  # fmt: skip
            return None
        ledger.add("TEMPLATE", Status.EXACT, "the GGUF's own Jinja", "chat_template.jinja", path.reason)
        return _translated(lambda: _native(model, bos=bos), ledger)
    jinja = _translated(lambda: as_ollama(model, path, bos=bos), ledger)
    if jinja is None:
        return None
    if path.path == "renderer":
        ledger.add("RENDERER", Status.EQUIVALENT, renderer_name.resolve(model), "chat_template.jinja",
                   "Ollama's own code, written as a chat template and proved on recorded prompts")  # fmt: skip
    else:
        ledger.add("TEMPLATE", Status.EQUIVALENT, "Go template", "chat_template.jinja", path.reason)
        if capabilities.uses_harmony(model):
            ledger.add("TEMPLATE", Status.APPROXIMATE, "harmony", "vLLM's own harmony code",
                       "vLLM writes the prompts of gpt-oss itself and reads no chat template: SYSTEM and MESSAGE "
                       "have to come with the requests")  # fmt: skip
    return jinja


def as_ollama(model: OllamaModel, path: PromptPathDecision, *, bos: bool) -> chat_template.Translation:
    """The chat template of what Ollama renders itself: a RENDERER or the Go TEMPLATE.

    Raises Refused and TemplateError.
    """
    settings = template_settings(model, path)
    if path.path == "renderer":
        name = renderer_name.resolve(model)
        return chat_template.renderer(name, system=model.system, messages=model.messages, bos=bos, **settings)
    template = model.template or capabilities.DEFAULT_TEMPLATE
    return chat_template.translate(template, system=model.system, messages=model.messages, bos=bos, **settings)


class TemplateSettings(TypedDict):
    """What Ollama's server does around a template, as `translate`, `renderer` and `prove` take it."""

    think: bool | None
    filter_think_tags: bool


def template_settings(model: OllamaModel, path: PromptPathDecision) -> TemplateSettings:
    thinks = "thinking" in capabilities.capabilities(model, path.path)
    return {"think": True if thinks else None, "filter_think_tags": filters_think_tags(model)}


def filters_think_tags(model: OllamaModel) -> bool:
    """Whether Ollama cuts `<think>` out of earlier answers: the family qwen3, and models called deepseek-r1."""
    is_r1 = ModelName.valid(model.name) and ModelName.parse(model.name).model == "deepseek-r1"
    return is_r1 or capabilities.family(model) == "qwen3"


def _native(model: OllamaModel, *, bos: bool) -> chat_template.Translation:
    header = model.gguf
    return chat_template.native(
        capabilities.jinja_template(model),
        system=model.system,
        messages=model.messages,
        tool_use=header.tool_use_template if header else None,
        bos_token=_token(header, "bos") if bos else None,
        filter_think_tags=filters_think_tags(model),
    )


def _token(header: GGUFHeader | None, name: str) -> str:
    """The text of the token `bos` or `eos`, "" where there is none."""
    index = header.get(f"tokenizer.ggml.{name}_token_id") if header else None
    tokens = header.get("tokenizer.ggml.tokens", ()) if header else ()
    return str(tokens[index]) if isinstance(index, int) and 0 <= index < len(tokens) else ""


def _own(model: OllamaModel, path: PromptPathDecision, ledger: Ledger, *, bos: bool) -> str | None:
    if not capabilities.jinja_template(model):
        ledger.add("TEMPLATE", Status.REFUSED, "", "", "--chat-template own: the GGUF carries no chat template")
        return None
    own = _translated(lambda: _native(model, bos=bos), ledger)
    if own is None or path.path == "gguf_jinja":
        return own
    ledger.add("TEMPLATE", Status.APPROXIMATE, path.path, "the GGUF's own Jinja",
               f"as asked with --chat-template own: {_differences(model, path, own, bos=bos)}",
               "compare the answers with `migrate parity`")  # fmt: skip
    return own


def _differences(model: OllamaModel, path: PromptPathDecision, own: str, *, bos: bool) -> str:
    from migrate.chat_template.compare import compare

    tokens = {f"{name}_token": _token(model.gguf, name) for name in ("bos", "eos")}
    try:
        checks = compare(as_ollama(model, path, bos=bos).jinja, own, tokens=tokens)
    except (Refused, TemplateError) as error:
        return f"not what Ollama renders (not compared: {error})"
    other = [check for check in checks if check.expected != check.got]
    if not other:
        return f"equal to Ollama's prompt in all {len(checks)} conversations compared"
    return (
        f"not what Ollama renders in {len(other)} of {len(checks)} conversations compared: "
        f"{', '.join(check.name for check in other)}; the first: {_first(other[0])}"
    )


def _first(check: chat_template.Check) -> str:
    if check.expected is None or check.got is None:
        return "one of the two cannot be rendered"
    at = check.first_difference or 0
    return f"Ollama {check.expected[at : at + 40]!r}, own {check.got[at : at + 40]!r} at character {at}"


def _translated(make: Callable[[], chat_template.Translation], ledger: Ledger) -> str | None:
    """Runs a translation; a refusal, or a template that does not parse, becomes a finding."""
    try:
        translation = make()
    except (Refused, TemplateError) as error:
        ledger.add("TEMPLATE", Status.REFUSED, "", "", str(error), error.hint or "")
        return None
    ledger.extend(translation.findings)
    return translation.jinja


@dataclass(frozen=True, slots=True)
class Parsers:
    """What vLLM reads out of answers: its arguments, and the tag of the bundle's own tool parser, if there is one."""

    arguments: tuple[Argument, ...] = ()
    tool_tag: str | None = None


def map_parsers(model: OllamaModel, path: PromptPathDecision, ledger: Ledger, choice: ParserChoice) -> Parsers:
    """The tool-call and the reasoning parser. `choice`: names that the user gave, "none" for none at all."""
    can = capabilities.capabilities(model, path.path)
    tools = _map_tools(model, path, ledger, choice.tools) if "tools" in can else Parsers()
    thinking = _map_thinking(model, path, ledger, choice.reasoning) if "thinking" in can else ()
    return Parsers((*tools.arguments, *thinking), tools.tool_tag)


@dataclass(frozen=True, slots=True)
class ParserChoice:
    """`--tool-call-parser` and `--reasoning-parser`; None lets us choose."""

    tools: str | None = None
    reasoning: str | None = None


def _map_tools(model: OllamaModel, path: PromptPathDecision, ledger: Ledger, given: str | None) -> Parsers:
    """Without a parser vLLM answers requests with tools with 400."""
    if given == "none":
        ledger.add("tools", Status.DROPPED, "", "", "as asked with --tool-call-parser none")
        return Parsers()
    if given not in (None, tool_parsers.PLUGIN):
        ledger.add("tools", Status.APPROXIMATE, "", f"tool-call-parser {given}", "as asked with --tool-call-parser")
        return _tool_arguments(str(given), "--tool-call-parser")
    name = tool_parsers.BY_OLLAMA_PARSER.get(model.parser or "") if given is None else None
    if name:
        reason = tool_parsers.DIFFERENCES.get(name, "reads the same syntax")
        ledger.add("PARSER", Status.APPROXIMATE, f"{model.parser}: tool calls", f"tool-call-parser {name}", reason)
        return _tool_arguments(name, f"PARSER {model.parser}")
    found = "tool calls found by name and JSON"
    rendered = path.path in ("go_template", "parser")
    text = (model.template if rendered else capabilities.jinja_template(model)) or ""
    parser = tool_parsers.choose(text, _vocabulary(model.gguf)) if given is None else None
    if parser:
        reason = f"the template writes calls as {parser.syntax}; vLLM's parser is stricter than Ollama's search"
        ledger.add("tools", Status.APPROXIMATE, found, f"tool-call-parser {parser.name}", reason)
        return _tool_arguments(parser.name, f"the template's own syntax: {parser.syntax}")
    if rendered:
        tag = _tool_tag(text)
        reason = f"behind {tag!r}, as Ollama searches: none of vLLM's parsers is known to read this template's calls"
        ledger.add("tools", Status.EQUIVALENT, found, "tool_parser.py", reason)
        plugin = Argument("tool-parser-plugin", "tool_parser.py", "Ollama's search for tool calls")
        arguments = _tool_arguments(tool_parsers.PLUGIN, f"tool_parser.py looks behind {tag}").arguments
        return Parsers((plugin, *arguments), tag)
    reason = "no parser of vLLM's is known to read this template's tool calls: requests with tools get a 400"
    action = "choose one with --tool-call-parser, or send tool_choice none"
    ledger.add("tools", Status.DROPPED, found, "", reason, action)
    return Parsers()


def _tool_arguments(name: str, origin: str) -> Parsers:
    return Parsers(
        (
            Argument("enable-auto-tool-choice", True, "the template takes tools"),
            Argument("tool-call-parser", name, origin),
        )
    )


def _tool_tag(template: str) -> str:
    try:
        return tool_tag(template)
    except TemplateError:  # said elsewhere
        return NO_TAG


def _map_thinking(
    model: OllamaModel, path: PromptPathDecision, ledger: Ledger, given: str | None
) -> tuple[Argument, ...]:
    """`think` defaults to true in Ollama where a model can think; vLLM's parsers ask the same switch."""
    on = Argument(
        "default-chat-template-kwargs", '{"enable_thinking": true}', "Ollama's default of `think` for such a model"
    )
    ledger.add("think", Status.EQUIVALENT, "true unless a request says otherwise", "enable_thinking true",
               "clients say chat_template_kwargs.enable_thinking or reasoning_effort instead of think")  # fmt: skip
    name, reason, source = _reasoning_parser(model, path, given)
    if name is None:
        ledger.add("thinking", Status.DROPPED, source, "", reason)
        return (on,)
    ledger.add("thinking", Status.APPROXIMATE, source, f"reasoning-parser {name}", reason)
    return (on, Argument("reasoning-parser", name, source))


def _reasoning_parser(model: OllamaModel, path: PromptPathDecision, given: str | None) -> tuple[str | None, str, str]:
    """Name, reason, source."""
    if given is not None:
        return (None if given == "none" else given), "as asked with --reasoning-parser", "--reasoning-parser"
    if model.parser:
        source = f"PARSER {model.parser}"
        name = reasoning_parsers.BY_OLLAMA_PARSER.get(model.parser)
        return name, "reads the same tags" if name else "no parser of vLLM's is known for it", source
    if path.path == "parser":
        return "openai_gptoss", "harmony channels, which vLLM reads itself", "gpt-oss"
    tags = ("<think>", "</think>")
    if path.path == "go_template":
        tags = thinking_tags(parse_template(model.template or ""))
    choice = reasoning_parsers.for_tags(*tags, _vocabulary(model.gguf))
    return choice.name, choice.reason, " ".join(tags)


def _vocabulary(header: GGUFHeader | None) -> Container[str]:
    tokens: Container[str] = header.get("tokenizer.ggml.tokens", ()) if header else ()
    return tokens
