"""The prompt of a conversation, as Ollama writes it for a model: one of its four ways, without any server.

Facts: server/prompt.go (chatPrompt, renderPrompt), server/routes.go (ChatHandler, GenerateHandler) and
llm/llama_server.go (completionPrompt) of Ollama 0.33.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from migrate.bundle.format import Source
from migrate.errors import BadInput, Refused, TemplateError
from migrate.gateway.types import ApiError, Message, Think
from migrate.ollama import conversation, renderer_name
from migrate.ollama.capabilities import DEFAULT_TEMPLATE
from migrate.ollama.model import OllamaModel
from migrate.ollama.names import ModelName
from migrate.ollama.template import parse_template, render_chat, render_suffix

if TYPE_CHECKING:
    import jinja2

MAX_TEMPLATE = 64 << 10
"""Characters of a request's own template: a quarter of a second to parse, and more than models' own have."""

Render = Callable[[Sequence[Message], Sequence[Mapping[str, Any]], Think], str]
"""Messages in their final order, tools, think -> the prompt without the BOS that the tokenizer adds."""


class Prompts:
    """How one model's prompts are written.

    `json_tools` prints `{{ .Function }}` as JSON, what the template's author means; otherwise as Ollama 0.14 and later
    do, a Go struct. `bos`, `eos`: texts of the tokens; `bos` is put first where llama.cpp adds it.
    """

    def __init__(self, source: Source, *, bos: str = "", eos: str = "", json_tools: bool = True) -> None:
        self._source = source
        self._bos = bos
        self._json_tools = json_tools
        self._leading_bos = ""
        self.filters_think = _filters_think(source)
        if source.prompt_path == "renderer":
            self._render = self._of_renderer(eos)
        elif source.prompt_path == "gguf_jinja" and source.chat_template:
            self._render = self._of_jinja(source.chat_template, eos)
        else:
            template = source.template if source.template is not None else DEFAULT_TEMPLATE
            parse_template(template)
            self._render = lambda messages, tools, think: render_chat(
                template, messages, tools=tools, think=_word(think), json_tools=json_tools
            )

    def messages(
        self, messages: Sequence[Message], *, system: str | None = None, with_model: bool = True
    ) -> list[Message]:
        """A request's messages with the model's SYSTEM and MESSAGEs before them.

        `system` replaces SYSTEM; without `with_model` the MESSAGE lines are left out (/api/generate with a context).
        """
        ordered = conversation.ordered(
            messages,
            system=system or self._source.system,
            model_messages=self._source.messages if with_model else (),
        )
        return conversation.without_thinking(ordered) if self.filters_think else ordered

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], think: Think) -> str:
        """Raises ApiError where Ollama answers with an error (500)."""
        return self._guarded(lambda: self._render(messages, tools, think))

    def render_template(self, template: str, messages: Sequence[Message], think: Think) -> str:
        """With a request's own `template`. Raises ApiError: Ollama answers 500 to one that does not parse. May take
        seconds: to be called beside the event loop."""
        _bounded(template)
        return self._guarded(lambda: render_chat(template, messages, think=_word(think), json_tools=self._json_tools))

    def render_suffix(self, template: str, prompt: str, suffix: str, think: Think) -> str:
        """Fill in the middle. With a request's own `template` it may take as long as `render_template`."""
        _bounded(template)
        text = template or self._source.template or DEFAULT_TEMPLATE
        return self._guarded(lambda: render_suffix(parse_template(text), prompt, suffix, think=_word(think)))

    def with_bos(self, prompt: str, *, own: bool = True) -> str:
        """What the model reads: BOS first where llama.cpp adds it, once where Ollama sees to that.

        It takes away a BOS only if the model's renderer printed it (`own`: the prompt is from there), or if it is
        literally `<bos>`.
        """
        if not self._source.adds_bos or not self._bos:
            return prompt
        for printed in (self._leading_bos if own else "", "<bos>"):
            if printed and prompt.startswith(printed):
                prompt = prompt.removeprefix(printed)
                break
        return self._bos + prompt

    def _of_renderer(self, eos: str) -> Render:
        from migrate.chat_template.renderers import RENDERERS, renderer

        name = renderer_name.resolve(
            OllamaModel(
                self._source.name,
                self._source.kind,
                renderer=self._source.renderer,
                config={"model_type": self._source.details.get("parameter_size", "")},
            )
        )
        if name not in RENDERERS:
            raise Refused(
                f"{self._source.name}: RENDERER {name!r} has no template here",
                hint="convert the model again with this version",
            )
        self._leading_bos = RENDERERS[name].leading_bos
        return self._of_jinja(renderer(name).jinja, eos)

    def _of_jinja(self, jinja: str, eos: str) -> Render:
        from migrate.chat_template.conversation import arguments
        from migrate.chat_template.environment import environment

        template: jinja2.Template = environment().from_string(jinja)
        # llama-server hands its BOS to the template and takes one off the front; the renderers print their own
        leading = self._leading_bos or self._bos
        self._leading_bos = leading

        def render(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], think: Think) -> str:
            call = arguments({"messages": messages, "tools": tools, "think": think})
            return template.render(
                bos_token=self._bos,
                eos_token=eos,
                documents=None,
                add_generation_prompt=True,
                **{"tools": None, **call},
            )

        return render

    def _guarded(self, render: Callable[[], str]) -> str:
        import jinja2

        try:
            return render()
        except (TemplateError, jinja2.TemplateError, RecursionError) as error:  # before BadInput, which the first is
            raise ApiError(500, str(error) or type(error).__name__) from None
        except BadInput as error:
            raise ApiError(400, str(error)) from None


def _bounded(template: str) -> None:
    if len(template) > MAX_TEMPLATE:
        raise ApiError(400, f"the template is longer than {MAX_TEMPLATE} characters")


def _word(think: Think) -> Any:
    return think


def _filters_think(source: Source) -> bool:
    """Whether `<think>` is cut out of earlier answers (filterThinkTags)."""
    is_r1 = ModelName.valid(source.name) and ModelName.parse(source.name).model == "deepseek-r1"
    return is_r1 or source.architecture == "qwen3"
