"""Finds the tool calls in this model's answers the way Ollama did. A plugin for vLLM:

    vllm serve ... --enable-auto-tool-choice --tool-parser-plugin tool_parser.py --tool-call-parser ollama

Behind TAG the first name of a tool of the request is looked for, and with it the first JSON object that can be its
arguments. What stands before TAG is the answer's text.
"""

import json
import uuid

TAG = "{"
TAGS = {}
"""Served name -> tag, where models with different ones share a server; TAG for all others."""


class CallSearch:
    """Ollama's search (its package `tools`), fed piece by piece. It knows nothing of vLLM."""

    def __init__(self, tag, names):
        self.tag = tag
        self.names = [name for name in names if name]
        self.state = "text"
        self.buffer = ""
        self.found = 0

    def add(self, text):
        """More of the answer -> what is plain text by now, and the calls (name, arguments) that are complete."""
        if self.state == "done":
            return text, []
        self.buffer += text
        content = ""
        if self.state == "text":
            at, complete = self._find_tag()
            content, self.buffer = self.buffer[:at], self.buffer[at:]
            if self.tag in ("{", "[") and content.strip():
                # Without a tag of its own a call has to come first.
                content += self.finish()
                self.state = "done"
                return content, []
            if not complete:
                return content, []
            self.state = "calls"
        calls = []
        while call := self._next_call():
            calls.append(call)
            self.found += 1
        if self._is_closed():
            content += self.buffer
            self.buffer = ""
            self.state = "done"
        return content, calls

    def finish(self):
        """What was held back and is no call after all."""
        text = self.buffer if self.tag in ("{", "[") and not self.found else ""
        self.buffer = ""
        return text

    def _find_tag(self):
        at = self.buffer.find(self.tag)
        if at >= 0:
            return at, True
        for length in range(min(len(self.buffer), len(self.tag)), 0, -1):
            if self.buffer.endswith(self.tag[:length]):
                return len(self.buffer) - length, False
        return len(self.buffer), False

    def _next_call(self):
        name, name_end = self._find_name()
        if name is None:
            return None
        arguments, at = find_arguments(name, self.buffer)
        if arguments is None:
            return None
        self.buffer = self.buffer[max(at, name_end) :]
        return name, arguments

    def _find_name(self):
        """The first name in the buffer, the longest of those that begin there; none while one may be under way."""
        for name in self.names:
            if any(self.buffer.endswith(name[:length]) for length in range(1, len(name))):
                return None, 0
        places = [(self.buffer.find(name), -len(name), name) for name in self.names if name in self.buffer]
        if not places:
            return None, 0
        at, _, name = min(places, key=lambda place: place[:2])
        return name, at + len(name)

    def _is_closed(self):
        """Without a tag of its own: whether the JSON that began the answer has come to its end."""
        if self.tag not in ("{", "["):
            return False
        close = {"{": "}", "[": "]"}[self.tag]
        depth = 0
        for _, char in outside_strings(self.buffer):
            depth += (char == self.tag) - (char == close)
            if char == close and depth == 0:
                return True
        return False


def outside_strings(text):
    """(position, character) of all that is not inside a JSON string."""
    in_string = escaped = False
    for at, char in enumerate(text):
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == '"':
            in_string = not in_string
        elif not in_string:
            yield at, char


def find_arguments(name, text):
    """The arguments in the first JSON object of `text`, and where it ends; (None, 0) if there are none."""
    start, depth = None, 0
    for at, char in outside_strings(text):
        if char == "{":
            if depth == 0:
                start = at
            depth += 1
        elif char == "}":
            depth = max(depth - 1, 0) if start is None else depth - 1
            if depth == 0 and start is not None:
                value = parse_object(text[start : at + 1])
                if value is None:
                    start = None
                    continue
                known, arguments = search_object(name, value)
                return (arguments if known else value), at
            depth = max(depth, 0)
    return None, 0


def parse_object(text):
    try:
        value = json.loads(text, parse_constant=not_json)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def not_json(word):
    raise ValueError(word)


def search_object(name, value):
    """(True, arguments) where an object says what they are; arguments None: it is a call without any."""
    if "name" in value:
        for key in ("arguments", "parameters"):
            if (found := arguments_at(value, key)) is not None:
                return True, found
        return True, None
    if (found := arguments_at(value, name)) is not None:
        return True, found
    for child in value.values():
        for item in child if isinstance(child, list) else [child]:
            if isinstance(item, dict):
                known, found = search_object(name, item)
                if known:
                    return True, found
    return False, None


def arguments_at(value, key):
    found = value.get(key)
    if isinstance(found, str):
        found = parse_object(found)
    return found if isinstance(found, dict) else None


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
