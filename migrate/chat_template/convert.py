"""The translation of a whole TEMPLATE: the data it gets, its body, and the prelude that body needs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from migrate.chat_template import emit, generation, legacy, macros, prelude
from migrate.chat_template import jinja_ast as j
from migrate.chat_template.show import FUNCTION_FINDING
from migrate.chat_template.simplify import simplify
from migrate.chat_template.translator import Translator
from migrate.chat_template.values import T, Value, constant
from migrate.errors import Refused
from migrate.findings import Finding, Status
from migrate.gotemplate import nodes as go
from migrate.ollama.template import parse_template, variables_used

MAX_TEMPLATE_CHARS = 100_000

_THINK = {
    "Think": Value(T.BOOL, j.Name("think")),
    "ThinkLevel": Value(T.STRING, j.Name("think_level")),
    "IsThinkSet": Value(T.BOOL, j.Name("think_set")),
}
GENERATION_FINDING = "generation prompt"
_TURNS = j.Attr(j.Name("chat"), "turns")


@dataclass(frozen=True, slots=True)
class Translation:
    """A chat template and what is worth knowing about it."""

    jinja: str
    findings: tuple[Finding, ...] = ()


def translate(
    template: str,
    *,
    system: str | None = None,
    messages: Sequence[Mapping[str, Any]] = (),
    bos: bool = False,
    think: bool | None = None,
    filter_think_tags: bool = False,
) -> Translation:
    """Ollama's Go TEMPLATE with the Modelfile's SYSTEM and MESSAGEs as a chat template for transformers and vLLM.

    `bos`: print `bos_token` first, as llama.cpp adds it when it tokenizes. `think`: what a request means that does not
    say: None leaves it unset, True is what Ollama's server fills in for models that can think. `filter_think_tags`: cut
    reasoning out of earlier answers, as Ollama does for the family qwen3 and for deepseek-r1.

    Raises TemplateError where the template does not parse and Refused, with the line, where it cannot be right.
    """
    if len(template) > MAX_TEMPLATE_CHARS:
        raise Refused(f"the TEMPLATE has {len(template):,} characters; at most {MAX_TEMPLATE_CHARS:,} are translated")
    try:
        tree = parse_template(template)
        body, findings = _translate_tree(tree)
        before = [*prelude.modelfile(system, messages), *(prelude.without_thinking() if filter_think_tags else ())]
        return _assemble(template, body, findings, before, bos, think)
    except RecursionError:
        raise Refused("the TEMPLATE is nested too deeply") from None


def _translate_tree(tree: go.Template) -> tuple[j.Body, dict[str, str]]:
    if "messages" in variables_used(tree):
        return _translate_messages(tree)
    return _translate_legacy(tree)


def _translate_messages(tree: go.Template) -> tuple[j.Body, dict[str, str]]:
    root = {
        "System": Value(T.STRING, j.Name("system")),
        "Messages": Value(T.MESSAGES, _TURNS),
        "Tools": Value(T.TOOLS, j.Name("tools")),
        "Response": constant(""),
        **_THINK,
    }
    translator = Translator(tree, root)
    with translator.facts.assuming(_TURNS, True):  # Ollama renders nothing when there is no message
        body = simplify(translator.translate(tree.root))
    _refuse_certain_failure(body)
    return _noted(generation.guard(body), translator.findings)


def _noted(guarded: tuple[j.Body, bool], notes: Mapping[str, str]) -> tuple[j.Body, dict[str, str]]:
    body, found = guarded
    return body, dict(notes) if found else {**notes, GENERATION_FINDING: ""}


def _refuse_certain_failure(body: j.Body) -> None:
    for stmt in body:
        if isinstance(stmt, j.Output) and isinstance(stmt.expr, j.Call) and j.is_raise(stmt.expr):
            message = stmt.expr.args[0]
            assert isinstance(message, j.Lit)
            raise Refused(str(message.value).removeprefix("migrate: ").replace("this conversation", "any conversation"))


# ---- templates without Messages: once per turn ----------------------------------------------------------------------

_SLOTS = ("system", "prompt", "response")


def _translate_legacy(tree: go.Template) -> tuple[j.Body, dict[str, str]]:
    root = {name.capitalize(): Value(T.STRING, j.Name(name)) for name in _SLOTS} | _THINK
    cut = legacy.cut_after_response(tree.root)
    last, findings = _legacy_part(tree, root, cut, is_cut=True)
    _refuse_certain_failure(last)
    last, found = generation.guard_turn(last, j.Name("response"))
    slots = (*_SLOTS, "generation_prompt=true") if found else _SLOTS
    findings |= {} if found else {GENERATION_FINDING: ""}
    closing = _text_behind(tree.root, cut)
    if closing is not None:
        parts, final = [j.Macro("turn", slots, last)], "turn"
    else:
        whole, more = _legacy_part(tree, root, tree.root)
        findings |= more
        parts, final = [j.Macro("turn", _SLOTS, whole), j.Macro("last_turn", slots, last)], "last_turn"
    values_of_slots = ", ".join(f"chat.{slot}" for slot in _SLOTS)
    finished = f"{{{{- turn({values_of_slots}){f' + {emit.quoted(closing)}' if closing else ''} }}}}"
    wanted = ", add_generation_prompt" if found else ""
    end = j.Source(f"{{{{- {final}({values_of_slots}{wanted}) }}}}")
    return (*parts, *prelude.legacy_loop([finished]), end), findings


def _text_behind(whole: go.Block, cut: go.Block) -> str | None:
    """What the cut took away, if that is nothing but text."""
    kept, rest = whole.nodes[: len(cut.nodes)], whole.nodes[len(cut.nodes) :]
    if cut.nodes != kept or not all(isinstance(node, go.Text | go.Comment) for node in rest):
        return None
    return "".join(node.text for node in rest if isinstance(node, go.Text))


def _legacy_part(
    tree: go.Template, root: Mapping[str, Value], block: go.Block, *, is_cut: bool = False
) -> tuple[j.Body, dict[str, str]]:
    translator = Translator(tree, root, without_functions=is_cut)
    body = simplify(translator.translate(block))
    return body, dict(translator.findings)


# ---- putting it together --------------------------------------------------------------------------------------------


def _assemble(
    template: str,
    body: j.Body,
    notes: Mapping[str, str],
    before: Sequence[j.Stmt],
    bos: bool,
    think: bool | None,
) -> Translation:
    digest = hashlib.sha256(template.encode()).hexdigest()
    header = j.Comment(f"Translated from an Ollama TEMPLATE, sha256:{digest}")
    names = {node.name for node in j.expressions(body) if isinstance(node, j.Name)}
    attrs = {node.name for node in j.expressions(body) if isinstance(node, j.Attr)}
    reads_turns = any(node == _TURNS for node in j.expressions(body))
    is_legacy = any(isinstance(stmt, j.Macro) for stmt in body)
    if bos:
        body = _with_bos(body)
    setup = [
        *before,
        *prelude.thinking(names, think),
        *([] if is_legacy else prelude.collate(attrs, turns=reads_turns, system="system" in names)),
    ]
    called = {name for name in names if macros.known(name)}
    if "tool_name" in attrs:
        called.add("tool_name")
    library = [j.Source(source) for source in macros.sources(sorted(called))]
    jinja = emit.render((header, *library, *setup, *body))
    return Translation(jinja, tuple(_findings(notes)))


def _with_bos(body: j.Body) -> j.Body:
    """`bos_token` first; of a `<bos>` that the template itself begins with, Ollama strips one."""
    bos = j.Output(j.Name("bos_token"))
    if isinstance(body[0], j.Output) and isinstance(body[0].expr, j.Lit):
        rest = str(body[0].expr.value).removeprefix("<bos>")
        return (bos, j.Output(j.Lit(rest)), *body[1:])
    return (bos, *body)


def _findings(notes: Mapping[str, str]) -> list[Finding]:
    found = []
    if FUNCTION_FINDING in notes:
        found.append(
            Finding(
                "TEMPLATE",
                Status.APPROXIMATE,
                source=f"{FUNCTION_FINDING} ({notes[FUNCTION_FINDING]})",
                target="JSON",
                reason="Ollama 0.14 and later print a Go struct here, before that it was JSON, which the author meant",
            )
        )
    if GENERATION_FINDING in notes:
        found.append(
            Finding(
                "TEMPLATE",
                Status.APPROXIMATE,
                source=GENERATION_FINDING,
                target="always printed",
                reason="it is printed together with the messages, so add_generation_prompt=false does not leave it out",
            )
        )
    return found
