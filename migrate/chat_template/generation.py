"""Which part of a translated template is the generation prompt, and how to leave it out.

Ollama always prints it; transformers asks for it with `add_generation_prompt`. It is recognised where people put it:
constant text behind the loop over the messages, or constant text printed at the end of that loop for the last message;
in a template without Messages, the text in front of the answer. One printed together with the user's text, and without
a name to know it by, stays.
"""

from __future__ import annotations

import re
from dataclasses import replace

from migrate.chat_template.jinja_ast import (
    And,
    Attr,
    Body,
    Concat,
    Expr,
    For,
    If,
    Lit,
    LoopVar,
    Name,
    Not,
    Or,
    Output,
    Stmt,
    conjunction,
    statements,
)

WANTED = Name("add_generation_prompt")
_TURNS = Attr(Name("chat"), "turns")


def guard(body: Body) -> tuple[Body, bool]:
    """The body with its generation prompt under `{% if add_generation_prompt %}`, and whether it was found."""
    last = max((i for i, stmt in enumerate(body) if _prints_messages(stmt)), default=None)
    if last is None:
        return body, False
    tail, stmt = body[last + 1 :], body[last]
    if tail and all(_is_constant(part) for part in tail):
        before = body[: last + 1]
        if all(isinstance(part, Output) and _is_blank(part) for part in tail):  # the file's last newline
            before, _ = guard(before)
        return (*before, If(WANTED, tail)), True
    if tail:
        return body, False
    if isinstance(stmt, For):
        guarded = _guard_end(stmt.body, stmt.loop)
        return (*body[:last], replace(stmt, body=guarded)), guarded != stmt.body
    if isinstance(stmt, If):
        inner, found = guard(stmt.body)
        return (*body[:last], replace(stmt, body=inner)), found
    return body, False


def _prints_messages(stmt: Stmt) -> bool:
    if isinstance(stmt, For) and stmt.iterable == _TURNS:
        return any(isinstance(inner, Output) for inner in statements(stmt.body))
    return isinstance(stmt, If) and any(_prints_messages(inner) for inner in (*stmt.body, *stmt.otherwise))


def _is_constant(stmt: Stmt) -> bool:
    """Prints text that does not come from the conversation."""
    if isinstance(stmt, Output):
        return isinstance(stmt.expr, Lit)
    return isinstance(stmt, If) and all(_is_constant(inner) for inner in (*stmt.body, *stmt.otherwise))


def _is_blank(stmt: Output) -> bool:
    return isinstance(stmt.expr, Lit) and not str(stmt.expr.value).strip()


def _guard_end(body: Body, loop: int) -> Body:
    """Guards the last statement of the loop's body where it is printed for the last message only."""
    if not body or not isinstance(body[-1], If):
        return body
    end = body[-1]
    conditions = end.test.nodes if isinstance(end.test, And) else (end.test,)
    if LoopVar(loop, "last") in conditions:
        if not all(_is_constant(stmt) for stmt in end.body):
            return body
        if end.otherwise:
            return (*body[:-1], replace(end, body=(If(WANTED, end.body),)))
        return (*body[:-1], replace(end, test=conjunction([WANTED, end.test])))
    return (*body[:-1], replace(end, body=_guard_end(end.body, loop), otherwise=_guard_else(end, loop)))


def _guard_else(end: If, loop: int) -> Body:
    """`{% if not loop.last %}...{% else %}` is the last message, too."""
    closing = end.otherwise
    if closing and _is_not_last(end.test, loop) and all(_is_constant(stmt) for stmt in closing):
        return (If(WANTED, closing),)
    return _guard_end(closing, loop)


def _is_not_last(test: Expr, loop: int) -> bool:
    return test == Not(LoopVar(loop, "last"))


def guard_turn(body: Body, response: Name) -> tuple[Body, bool]:
    """The turn of a template without Messages: the text that opens the answer, where one is begun or wanted.

    That is the last text in front of the answer; where it follows the user's text, its part from the assistant's name.
    The macro's parameter `generation_prompt` says whether it is wanted.
    """
    end = body[-1] if body else None
    if not isinstance(end, Output) or not isinstance(end.expr, Concat):
        return body, False
    *before, text, answer = end.expr.parts
    if answer != response or not isinstance(text, Lit):
        return body, False
    at = opening(str(text.value)) if before else 0
    if at is None:
        return body, False
    head, prompt = str(text.value)[:at], str(text.value)[at:]
    printed = (*before, Lit(head)) if head else tuple(before)
    first = (Output(printed[0] if len(printed) == 1 else Concat(printed)),) if printed else ()
    wanted = If(Or((response, Name("generation_prompt"))), (Output(Concat((Lit(prompt), response))),))
    return (*body[:-1], *first, wanted), True


_ASSISTANT = re.compile(r"assistant|response|answer|output|\bmodel\b|\bai\b|\bbot\b", re.IGNORECASE)


def opening(text: str) -> int | None:
    """Where, behind the end of a user's turn, the assistant's begins: at its name, or the tag or line of its name."""
    names = list(_ASSISTANT.finditer(text))
    if not names:
        return None
    name = names[-1]
    line = text.rfind("\n", 0, name.start()) + 1
    tag, tag_end = text.rfind("<", line, name.start()), text.rfind(">", line, name.start())
    if tag >= 0 and (tag > tag_end or tag_end == name.start() - 1):
        return tag
    return max(line, tag_end + 1)
