"""Finds the tool calls in this model's answers the way Ollama did. A plugin for vLLM:

    vllm serve ... --enable-auto-tool-choice --tool-parser-plugin tool_parser.py --tool-call-parser ollama

Behind TAG the first name of a tool of the request is looked for, and with it the first JSON object that can be its
arguments. What stands before TAG is the answer's text.
"""

from __future__ import annotations

import json
import uuid

TAG = "{"
TAGS = {}
"""Served name -> tag, where models with different ones share a server; TAG for all others."""

# ---- the search: migrate/ollama/tool_calls.py ----


# ---- for vLLM ----


def register():
    """The parser, made of what the installed vLLM offers."""
    from vllm.tool_parsers.abstract_tool_parser import ToolParser, ToolParserManager

    try:
        from vllm.entrypoints.generate.base import protocol
    except ImportError:  # before vLLM 0.3x
        from vllm.entrypoints.openai.engine import protocol

    class OllamaToolParser(ToolParser):
        engine_based_streaming = True  # asks for `finish_streaming`; every call of the search takes a delta alone

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self._search = None

        def adjust_request(self, request):
            request = super().adjust_request(request)
            added = getattr(self.model_tokenizer, "added_tokens_decoder", {}).values()
            if request.tools and any(token.special and token.content in tag_of(request) for token in added):
                request.skip_special_tokens = False  # else the tag is gone before it gets here
            return request

        def extract_tool_calls(self, model_output, request):
            search = CallSearch(tag_of(request), tool_names(request))
            if not search.names:
                return protocol.ExtractedToolCallInformation(tools_called=False, tool_calls=[], content=model_output)
            content, calls = search.add(model_output)
            content += search.finish()
            found = [
                protocol.ToolCall(
                    type="function", function=protocol.FunctionCall(name=name, arguments=as_json(arguments))
                )
                for name, arguments in calls
            ]
            return protocol.ExtractedToolCallInformation(
                tools_called=bool(found), tool_calls=found, content=content or None
            )

        def extract_tool_calls_streaming(
            self, previous_text, current_text, delta_text, previous_ids, current_ids, delta_ids, request
        ):
            if self._search is None:
                self._search = CallSearch(tag_of(request), tool_names(request))
            content, calls = self._search.add(delta_text) if self._search.names else (delta_text, [])
            deltas = []
            for name, arguments in calls:
                self.current_tool_id += 1
                self.prev_tool_call_arr.append({"name": name, "arguments": as_json(arguments)})
                self.streamed_args_for_tool.append(as_json(arguments))
                function = protocol.DeltaFunctionCall(name=name, arguments=as_json(arguments))
                deltas.append(
                    protocol.DeltaToolCall(
                        index=self.current_tool_id,
                        id=f"call_{uuid.uuid4().hex[:8]}",
                        type="function",
                        function=function.model_dump(exclude_none=True),
                    )
                )
            if not content and not deltas:
                return None
            return protocol.DeltaMessage(content=content or None, tool_calls=deltas)

        def finish_streaming(self):
            text = self._search.finish() if self._search else ""
            return protocol.DeltaMessage(content=text) if text else None

    ToolParserManager.register_module("ollama", module=OllamaToolParser)


def tool_names(request):
    """Names of the tools of a request, none where it asks for no calls."""
    if not request.tools or request.tool_choice == "none":
        return []
    return [getattr(tool, "function", tool).name for tool in request.tools]


def tag_of(request):
    return TAGS.get(getattr(request, "model", None), TAG)


def as_json(arguments):
    return json.dumps(arguments, ensure_ascii=False)


if __name__ != "__main__":
    try:
        register()
    except ModuleNotFoundError as error:  # without vLLM the search alone can be used, by tests for one
        if not (error.name or "").startswith("vllm"):
            raise
