"""From a conversation to a prompt the way /api/chat goes for a model with a Go TEMPLATE.

Source: Ollama 0.33, template/template.go (Parse, Vars, Execute, deleteNode), server/prompt.go, server/images.go
(goTemplateCapabilities) and thinking/template.go (InferTags).
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from migrate.errors import BadInput, TemplateError
from migrate.gotemplate import execute, nodes, parse
from migrate.ollama import conversation
from migrate.ollama.conversation import Message
from migrate.ollama.template_objects import FUNCTION_NAMES, Function, functions, messages_value, tools_value

Think = bool | Literal["low", "medium", "high", "max"] | None

_RESPONSE = nodes.Action(nodes.Pipe((nodes.Command((nodes.Field(("Response",)),)),)))


@functools.lru_cache(maxsize=64)
def parse_template(text: str) -> nodes.Template:
    """Parses a TEMPLATE as Ollama does when it loads a model.

    One that mentions neither Messages nor Response gets `{{ .Response }}` at its end. Raises TemplateError with the
    line, also for `{{ template "x" }}` without data, which Ollama refuses.
    """
    template = parse(text, functions=FUNCTION_NAMES)
    if variables_used(template).isdisjoint(("messages", "response")):
        root = dataclasses.replace(template.root, nodes=(*template.root.nodes, _RESPONSE))
        template = dataclasses.replace(template, root=root)
    return template


def render_chat(
    template: str | nodes.Template,
    messages: Sequence[Message],
    *,
    system: str | None = None,
    model_messages: Sequence[Message] = (),
    tools: Sequence[Mapping[str, Any]] = (),
    think: Think = None,
    json_tools: bool = False,
    filter_think_tags: bool = False,
    today: datetime.date | None = None,
) -> str:
    """The prompt for a conversation, before truncation and without the BOS that llama.cpp adds.

    `system` and `model_messages` are the model's SYSTEM and MESSAGE lines; `think` is the field of the request, None
    when it was not sent. `json_tools` prints `{{ .Function }}` of a tool as JSON (Ollama before 0.14, and what authors
    mean) instead of a Go struct. `filter_think_tags` is what Ollama does for the family qwen3 and for deepseek-r1. A
    parsed `template` has to come from `parse_template`. `today` is the local date when None.
    Raises TemplateError where Ollama answers with an error, BadInput for messages it could not decode.
    """
    ordered = conversation.ordered(messages, system=system, model_messages=model_messages)
    if filter_think_tags:
        ordered = conversation.without_thinking(ordered)
    system_text, collated = conversation.collate(conversation.image_tagged(ordered))
    tree = parse_template(template) if isinstance(template, str) else template
    known = functions(today)
    if is_legacy(template):
        return _render_turns(tree, collated, _thinking(think), known)
    data = {
        "System": system_text,
        "Messages": messages_value(collated),
        "Tools": tools_value(tools, json_tools=json_tools),
        "Response": "",
        **_thinking(think),
    }
    return execute(tree, data, functions=known)


def render_suffix(
    template: str | nodes.Template, prompt: str, suffix: str, *, think: Think = None, today: datetime.date | None = None
) -> str:
    """The prompt of /api/generate with a suffix (fill in the middle); both texts non-empty."""
    if not prompt or not suffix:
        raise BadInput("fill in the middle takes a prompt and a suffix that are not empty")
    tree = parse_template(template) if isinstance(template, str) else template
    data = {"Prompt": prompt, "Suffix": suffix, "Response": "", **_thinking(think)}
    return execute(tree, data, functions=functions(today))


def _thinking(think: Think) -> dict[str, Any]:
    level = think if isinstance(think, str) else "medium" if think else ""
    return {"Think": bool(think), "ThinkLevel": level, "IsThinkSet": think is not None}


# ---- legacy templates -----------------------------------------------------------------------------------------------


def _render_turns(
    tree: nodes.Template, messages: Sequence[Message], thinking: Mapping[str, Any], known: Mapping[str, Function]
) -> str:
    """Runs a template without Messages once per turn.

    The last run stops behind `.Response`, so that an answer which has begun can go on.
    """
    turns = list(_turns(messages))
    prompts = [execute(tree, {**turn, **thinking}, functions=known) for turn in turns[:-1]]
    # The copy that Ollama cuts has lost its functions, its `define`s and the option missingkey.
    return "".join(prompts) + execute(cut_after_response(tree), {**turns[-1], **thinking}, missing_key="default")


def _turns(messages: Sequence[Message]) -> Iterator[dict[str, str]]:
    """The slots System, Prompt and Response of every run; the last one may be empty."""
    turn = _empty_turn()
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "system":
            if turn["Prompt"] or turn["Response"]:
                yield turn
                turn = _empty_turn()
            turn["System"] = content
        elif role == "user":
            if turn["Response"]:
                yield turn
                turn = _empty_turn()
            turn["Prompt"] = content
        elif role == "assistant":
            turn["Response"] = content
    yield turn


def _empty_turn() -> dict[str, str]:
    return {"System": "", "Prompt": "", "Response": ""}


def cut_after_response(tree: nodes.Template) -> nodes.Template:
    """What Ollama runs for the last turn of a legacy template. Raises TemplateError where its own cut panics."""
    root = _Cut().block(tree.root)
    assert root is not None
    return nodes.Template(root, name="")


class _Cut:
    """Deletes all that follows the first `.Response` in the text, whether it is executed or not.

    As in Ollama, the conditions of if, with and range are not looked at, nor is `$.Response`; and an `else` behind a
    `.Response` in the same if, with or range makes Ollama panic.
    """

    def __init__(self) -> None:
        self._found = False

    def _deletes(self, node: nodes.Node) -> bool:
        if isinstance(node, nodes.Field) and "Response" in node.idents:
            self._found = True
            return False
        return self._found

    def block(self, block: nodes.Block) -> nodes.Block | None:
        if self._deletes(block):
            return None
        kept = [statement for node in block.nodes if (statement := self._statement(node)) is not None]
        return dataclasses.replace(block, nodes=tuple(kept))

    def _statement(self, node: nodes.Statement) -> nodes.Statement | None:
        if self._deletes(node):
            return None
        if isinstance(node, nodes.Action):
            pipe = self._pipe(node.pipe)
            return None if pipe is None else dataclasses.replace(node, pipe=pipe)
        if not isinstance(node, (nodes.If, nodes.With, nodes.Range)):
            return node
        body = self.block(node.body)
        otherwise = None if node.otherwise is None else self.block(node.otherwise)
        if body is None or (node.otherwise is not None and otherwise is None):
            raise TemplateError(
                f"line {node.line}: Ollama fails on this template: an else follows .Response in the same block",
                line=node.line,
            )
        return dataclasses.replace(node, body=body, otherwise=otherwise)

    def _pipe(self, pipe: nodes.Pipe) -> nodes.Pipe | None:
        if self._deletes(pipe):
            return None
        commands = []
        for command in pipe.commands:
            args = tuple(arg for node in command.args if (arg := self._operand(node)) is not None)
            if not args:
                return None
            commands.append(dataclasses.replace(command, args=args))
        return dataclasses.replace(pipe, commands=tuple(commands))

    def _operand(self, node: nodes.Operand) -> nodes.Operand | None:
        if isinstance(node, nodes.Pipe):
            return self._pipe(node)
        return None if self._deletes(node) else node


# ---- what a template knows ------------------------------------------------------------------------------------------


def variables_used(template: nodes.Template) -> set[str]:
    """The names of all fields and variables in a template and its `define`s, lower-cased: Ollama's Vars.

    `.Messages` and `$.Messages` count alike. Raises TemplateError for a `{{ template "x" }}` without data.
    """
    names: set[str] = set()
    for block in (template.root, *template.defines.values()):
        for name in _identifiers(block):
            names.add(name.lower())
    return names


def _identifiers(node: nodes.Node) -> Iterator[str]:
    match node:
        case nodes.Block():
            for statement in node.nodes:
                yield from _identifiers(statement)
        case nodes.TemplateCall(pipe=None):
            raise TemplateError(f"line {node.line}: undefined template specified", line=node.line)
        case nodes.TemplateCall(pipe=nodes.Pipe() as pipe) | nodes.Action(pipe=pipe):
            yield from _identifiers(pipe)
        case nodes.If() | nodes.With() | nodes.Range():
            for part in (node.pipe, node.body, node.otherwise):
                if part is not None:
                    yield from _identifiers(part)
        case nodes.Pipe():
            for command in node.commands:
                for arg in command.args:
                    yield from _identifiers(arg)
        case nodes.Field() | nodes.Variable():
            yield from node.idents


@functools.lru_cache(maxsize=64)
def _is_legacy(template: str) -> bool:
    return "messages" not in variables_used(parse_template(template))


def is_legacy(template: str | nodes.Template) -> bool:
    """Whether the template is run once per turn: it does not mention Messages. Remembered for a text."""
    return _is_legacy(template) if isinstance(template, str) else "messages" not in variables_used(template)


def capabilities(template: str | nodes.Template) -> set[str]:
    """What Ollama reads off a Go template: "tools", "insert" (fill in the middle), "thinking"."""
    tree = parse_template(template) if isinstance(template, str) else template
    used = variables_used(tree)
    found = {capability for capability, name in (("tools", "tools"), ("insert", "suffix")) if name in used}
    if all(thinking_tags(tree)):
        found.add("thinking")
    return found


def thinking_tags(template: nodes.Template) -> tuple[str, str]:
    """The texts around `.Thinking` in a range over Messages: the first and the last text of the block it stands in."""
    tags = ["", ""]
    for block in _blocks_with_thinking(template.root, None, in_messages=False):
        for i, end in enumerate((block.nodes[0], block.nodes[-1])):
            if isinstance(end, nodes.Text):
                tags[i] = end.text.strip(conversation.SPACES)
    return tags[0], tags[1]


def _blocks_with_thinking(
    node: nodes.Node | None, block: nodes.Block | None, *, in_messages: bool
) -> Iterator[nodes.Block]:
    match node:
        case nodes.Block():
            for statement in node.nodes:
                yield from _blocks_with_thinking(statement, node, in_messages=in_messages)
        case nodes.If() | nodes.With() | nodes.Range():
            if isinstance(node, nodes.Range):
                in_messages = any(field.idents[0] == "Messages" for field in _fields(node.pipe))
            yield from _blocks_with_thinking(node.pipe, block, in_messages=in_messages)
            yield from _blocks_with_thinking(node.body, block, in_messages=in_messages)
            yield from _blocks_with_thinking(node.otherwise, block, in_messages=in_messages)
        case nodes.Action() | nodes.TemplateCall():
            yield from _blocks_with_thinking(node.pipe, block, in_messages=in_messages)
        case nodes.Pipe() if block is not None and in_messages:
            for field in _fields(node):
                if field.idents[0] == "Thinking":
                    yield block


def _fields(node: nodes.Pipe) -> Iterator[nodes.Field]:
    for command in node.commands:
        for arg in command.args:
            if isinstance(arg, nodes.Field):
                yield arg
            elif isinstance(arg, nodes.Pipe):
                yield from _fields(arg)
