"""Ollama's built-in renderers as chat templates.

A RENDERER is Go code inside Ollama (model/renderers, read at 0.33): no template is stored with the model. Each family
is written once in `templates/chat/`, as a chat template with two additions that are gone when it is emitted: what one
member of the family does differently is chosen between `<%` and `%>`, and the macros of `macros.jinja` and `macros.py`
are called without being defined.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from migrate import resources
from migrate.chat_template import emit, macros, prelude
from migrate.chat_template.convert import Translation
from migrate.errors import Refused
from migrate.findings import Finding, Status

if TYPE_CHECKING:
    import jinja2


@dataclass(frozen=True, slots=True)
class Renderer:
    """`family`: the file it is written in; the file asks for `name` where members of the family differ.

    `leading_bos`: the BOS text that the renderer prints itself (Ollama then drops the tokenizer's). `note`: where no
    template can do as Ollama does.
    """

    family: str
    leading_bos: str = ""
    note: str = ""


_NEMOTRON = (
    "non-printable characters in lists and objects of a tool's schema or arguments are escaped as JSON does, not as Go"
)

RENDERERS: Mapping[str, Renderer] = {
    "cogito": Renderer("cogito", "<｜begin▁of▁sentence｜>"),
    "cohere": Renderer("cohere"),
    "deepseek3.1": Renderer("deepseek3.1", "<｜begin▁of▁sentence｜>"),
    "functiongemma": Renderer("functiongemma", "<bos>"),
    "gemma4-large": Renderer("gemma4", "<bos>"),
    "gemma4-small": Renderer("gemma4", "<bos>"),
    "glimmer": Renderer("glimmer", "<|begin_of_text|>"),
    "glm-4.7": Renderer("glm-4.7"),
    "glm-ocr": Renderer("glm-ocr"),
    "laguna": Renderer("laguna", "〈|EOS|〉"),
    "lfm2": Renderer("lfm2", "<|startoftext|>"),
    "lfm2-thinking": Renderer("lfm2", "<|startoftext|>"),
    "nemotron-3-nano": Renderer("nemotron-3-nano", note=_NEMOTRON),
    "nemotron-3.5-nano": Renderer("nemotron-3-nano", note=_NEMOTRON),
    "olmo3": Renderer("olmo3"),
    "olmo3-32b-think": Renderer("olmo3-think"),
    "olmo3-think": Renderer("olmo3-think"),
    "olmo3.1": Renderer("olmo3"),
    "ornith": Renderer("qwen3.5"),
    "poolside-v1": Renderer("poolside-v1", "〈|EOS|〉"),
    "qwen3-coder": Renderer(
        "qwen3-coder",
        note="Ollama prints schema keys other than type and description in an order that changes from request to "
        "request; here they are sorted",
    ),
    "qwen3-vl-instruct": Renderer("qwen3-vl"),
    "qwen3-vl-thinking": Renderer("qwen3-vl"),
    "qwen3.5": Renderer("qwen3.5"),
    "qwen3.8": Renderer("qwen3.5"),
}


def names() -> list[str]:
    """The renderers that can be written as a chat template."""
    return sorted(RENDERERS)


def renderer(
    name: str,
    *,
    system: str | None = None,
    messages: Sequence[Mapping[str, Any]] = (),
    bos: bool = False,
    think: bool | None = None,
    filter_think_tags: bool = False,
) -> Translation:
    """The chat template of RENDERER `name`, with the Modelfile's SYSTEM and MESSAGEs.

    `bos`: the tokenizer adds BOS; printed unless the renderer's text begins with it. `think`: what a request means that
    does not say: None is the renderer's own default, True what Ollama's server fills in for models that can think.

    Raises Refused for a name that Ollama does not know, or that has no template here.
    """
    known = RENDERERS.get(name)
    if known is None:
        raise Refused(
            f"RENDERER {name!r} is not known",
            hint=f"known are {', '.join(names())}; --chat-template own uses the model's own Jinja",
        )
    body = _family(known.family).render(name=name).strip("\n")
    if bos and not known.leading_bos:
        body = "{{- bos_token }}\n" + body
    free = _free_names(body)
    setup = [
        *prelude.modelfile(system, messages),
        *(prelude.without_thinking() if filter_think_tags else ()),
        *prelude.thinking(free, think),
    ]
    header = f"{{#- The prompt of Ollama's built-in renderer {name}. #}}"
    parts = [header, *_library(free), *([emit.render(setup).rstrip("\n")] if setup else []), body]
    note = Finding("RENDERER", Status.APPROXIMATE, source=name, target="chat_template.jinja", reason=known.note)
    return Translation("\n".join(parts) + "\n", (note,) if known.note else ())


@cache
def _sources() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(resources.directory("templates") / "chat"),
        undefined=jinja2.StrictUndefined,
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _family(family: str) -> jinja2.Template:
    return _sources().get_template(f"{family}.jinja")


# ---- shared macros ---------------------------------------------------------------------------------------------------

_MACRO = re.compile(r"(?:\{#-[^\n]*#\}\n)*\{%- macro (\w+)\(.*?\{%- endmacro %\}", re.DOTALL)


@cache
def _shared() -> Mapping[str, str]:
    """The macros of `templates/chat/macros.jinja`, by name."""
    text = resources.text("chat/macros.jinja")
    return {match[1]: match[0] for match in _MACRO.finditer(text)}


def _library(called: Iterable[str]) -> list[str]:
    """The text of all macros that are needed, callees first (where they do not call each other)."""
    ordered: dict[str, str] = {}
    seen: set[str] = set()
    for name in sorted(called):
        _add(name, ordered, seen)
    return list(ordered.values())


def _add(name: str, ordered: dict[str, str], seen: set[str]) -> None:
    if name in seen:
        return
    seen.add(name)
    if name in _shared():
        text = _shared()[name]
        for need in sorted(_free_names(text)):
            _add(need, ordered, seen)
        ordered[name] = text
    elif macros.known(name):
        ordered |= {source: source for source in macros.sources([name])}


def _free_names(jinja: str) -> set[str]:
    """Names that a template reads and does not define."""
    from jinja2 import meta

    from migrate.chat_template.environment import environment

    return set(meta.find_undeclared_variables(environment().parse(jinja)))
