"""The answers of Ollama's POST /v1/responses, whole and as server-sent events.

Source: Ollama 0.33, openai/responses.go (ToResponse, ResponsesStreamConverter). `request` is the decoded body, whose
settings every answer repeats. An answer that was cut off by its length is "completed", too, as in Ollama. The whole
answer is a Go struct, the events are Go maps: their keys are sorted.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

from migrate.gateway import go_wire as go
from migrate.gateway.openai_replies import error, tool_calls
from migrate.gateway.types import Chunk, Metrics

__all__ = ["ResponseStream", "error", "response_reply"]

_LARGEST_ID = 999999


def _id(prefix: str) -> str:
    return f"{prefix}_{random.randrange(_LARGEST_ID)}"


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _message(id: str, text: str, status: str = "completed", *, content: bool = True) -> dict[str, Any]:
    parts = [_text_part(text)] if content else []
    return {"id": id, "type": "message", "status": status, "role": "assistant", "content": parts}


def _usage(metrics: Metrics) -> dict[str, Any]:
    prompt, answer = metrics.prompt_eval_count, metrics.eval_count
    return {
        "input_tokens": prompt,
        "output_tokens": answer,
        "total_tokens": prompt + answer,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }


def _settings(request: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an answer repeats of its request: what stands before `usage` in the struct, and what behind it."""
    before = {
        "tool_choice": "auto",
        "truncation": "disabled" if request["truncation"] is None else request["truncation"],
        "parallel_tool_calls": True,
        "text": {"format": _format(request)},
        "top_p": 1.0 if request["top_p"] is None else request["top_p"],
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "top_logprobs": 0,
        "temperature": 1.0 if request["temperature"] is None else request["temperature"],
    }
    after = {
        "max_output_tokens": request["max_output_tokens"],
        "max_tool_calls": None,
        "store": False,
        "background": request["background"],
        "service_tier": "default",
        "metadata": {},
        "safety_identifier": None,
        "prompt_cache_key": None,
    }
    return before, after


def _format(request: Mapping[str, Any]) -> dict[str, Any]:
    given = None if request["text"] is None else request["text"]["format"]
    if given is None:
        return {"type": "text"}
    rest = {"name": given["name"] or None, "schema": given["schema"], "strict": given["strict"]}
    return {"type": given["type"], **{name: value for name, value in rest.items() if value is not None}}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    written = {**tool, "parameters": go.in_order(tool["parameters"])}
    members = written.pop("tools")
    return written if not members else {**written, "tools": [_tool(member) for member in members]}


def response_reply(
    model: str, chunk: Chunk, request: Mapping[str, Any], *, id: str | None = None, created: int | None = None
) -> dict[str, Any]:
    """The whole answer of /v1/responses: everything is in one chunk. `created` is in seconds, now if None."""
    id = id or _id("resp")
    output: list[dict[str, Any]] = []
    if chunk.thinking:
        summary = [{"type": "summary_text", "text": chunk.thinking}]
        output.append({"id": f"rs_{id}", "type": "reasoning", "summary": summary, "encrypted_content": chunk.thinking})
    for index, call in enumerate(tool_calls(chunk.tool_calls)):
        output.append(_filled(_call(f"fc_{id}_{index}", call)))
    if not chunk.tool_calls:
        output.append(_message(_id("msg"), chunk.content))
    effort, summary_kind = request["reasoning"]["effort"], request["reasoning"]["summary"]
    reasoning = _filled({"effort": effort, "summary": summary_kind}) if effort or summary_kind else None
    before, after = _settings(request)
    before["text"] = json.loads(go.encode(before["text"]))  # a schema may still be as it was parsed
    return {
        "id": id,
        "object": "response",
        "created_at": int(time.time()) if created is None else created,
        "completed_at": int(time.time()),
        "status": "completed",
        "incomplete_details": None,
        "model": model,
        "previous_response_id": None,
        "instructions": request["instructions"] or None,
        "output": output,
        "error": None,
        "tools": [_tool(tool) for tool in request["tools"] or ()],
        **before,
        "reasoning": reasoning,
        "usage": _usage(chunk.metrics),
        **after,
    }


def _call(id: str, call: Mapping[str, Any], status: str = "completed") -> dict[str, Any]:
    function = call["function"]
    return {
        "id": id,
        "type": "function_call",
        "status": status,
        "call_id": call["id"],
        "name": function["name"],
        "arguments": function["arguments"] if status == "completed" else "",
    }


def _filled(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}


class ResponseStream:
    """/v1/responses with `stream`: numbered events, one output item after the other."""

    def __init__(self, model: str, request: Mapping[str, Any], *, id: str | None = None) -> None:
        self._model = model
        self._request = request
        self._id = id or _id("resp")
        self._message_id = _id("msg")
        self._number = 0
        self._index = 0
        self._done: list[dict[str, Any]] = []
        self._thinking: list[str] = []
        self._thinking_id = ""
        self._text: list[str] = []
        self._called = False

    def feed(self, chunk: Chunk) -> bytes:
        """The events of a piece of the answer."""
        events = []
        if self._number == 0:
            for kind in ("response.created", "response.in_progress"):
                events.append(self._event(kind, response=self._response("in_progress", [], None)))
        if chunk.thinking:
            events += self._think(chunk.thinking)
        if chunk.tool_calls:
            events += self._close_thinking()
            for index, call in enumerate(tool_calls(chunk.tool_calls)):
                events += self._call(f"{_id('fc')}_{index}", call)
            self._called = True
        if chunk.content and not self._called:
            events += self._close_thinking() + self._write(chunk.content)
        if chunk.done:
            events += self._complete(chunk.metrics)
        return b"".join(events)

    def end(self, message: str | None = None, status: int = 500) -> bytes:
        """The end of a stream. Nothing is due, as `feed` wrote it; with `message`, the error that cut the stream off.

        Ollama loses that error: here a client gets to read it, as response.failed.
        """
        if message is None:
            return b""
        response = self._response("failed", self._output(), None)
        response["error"] = {"code": "server_error", "message": message}
        return self._event("response.failed", response=response)

    def _think(self, text: str) -> list[bytes]:
        events = []
        if not self._thinking:
            self._thinking_id = _id("rs")
            item = {"id": self._thinking_id, "type": "reasoning", "summary": []}
            events.append(self._event("response.output_item.added", output_index=self._index, item=item))
        self._thinking.append(text)
        return [*events, self._part("reasoning_summary_text.delta", self._thinking_id, summary_index=0, delta=text)]

    def _close_thinking(self) -> list[bytes]:
        if not self._thinking:
            return []
        text = "".join(self._thinking)
        summary = [{"type": "summary_text", "text": text}]
        item = {"id": self._thinking_id, "type": "reasoning", "summary": summary, "encrypted_content": text}
        self._thinking = []
        done = self._part("reasoning_summary_text.done", self._thinking_id, summary_index=0, text=text)
        return [done, self._item_done(item)]

    def _call(self, id: str, call: Mapping[str, Any]) -> list[bytes]:
        arguments = call["function"]["arguments"]
        begun = _call(id, call, "in_progress")
        return [
            self._event("response.output_item.added", output_index=self._index, item=begun),
            self._part("function_call_arguments.delta", id, delta=arguments),
            self._part("function_call_arguments.done", id, arguments=arguments),
            self._item_done(_call(id, call)),
        ]

    def _write(self, text: str) -> list[bytes]:
        events = []
        if not self._text:
            item = _message(self._message_id, "", "in_progress", content=False)
            events = [
                self._event("response.output_item.added", output_index=self._index, item=item),
                self._part("content_part.added", self._message_id, content_index=0, part=_text_part("")),
            ]
        self._text.append(text)
        return [*events, self._part("output_text.delta", self._message_id, content_index=0, delta=text, logprobs=[])]

    def _complete(self, metrics: Metrics) -> list[bytes]:
        events = self._close_thinking()
        output = self._output()
        if self._text and not self._called:
            text = "".join(self._text)
            events += [
                self._part("output_text.done", self._message_id, content_index=0, text=text, logprobs=[]),
                self._part("content_part.done", self._message_id, content_index=0, part=_text_part(text)),
                self._event("response.output_item.done", output_index=self._index, item=output[-1]),
            ]
        response = self._response("completed", output or None, _usage(metrics))
        response["completed_at"] = int(time.time())
        return [*events, self._event("response.completed", response=response)]

    def _output(self) -> list[dict[str, Any]]:
        return [*self._done, *([_message(self._message_id, "".join(self._text))] if self._text else [])]

    def _item_done(self, item: dict[str, Any]) -> bytes:
        self._done.append(item)
        self._index += 1
        return self._event("response.output_item.done", output_index=self._index - 1, item=item)

    def _part(self, kind: str, item_id: str, **fields: Any) -> bytes:
        return self._event(f"response.{kind}", item_id=item_id, output_index=self._index, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return go.event(go.in_order({"type": kind, "sequence_number": number, **fields}), kind)

    def _response(
        self, status: str, output: Sequence[Mapping[str, Any]] | None, usage: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        request = self._request
        effort, summary = request["reasoning"]["effort"] or None, request["reasoning"]["summary"] or None
        before, after = _settings(request)
        shown = ("type", "name", "description", "strict", "parameters")
        return {
            "id": self._id,
            "object": "response",
            "created_at": int(time.time()),
            "completed_at": None,
            "status": status,
            "incomplete_details": None,
            "model": self._model,
            "previous_response_id": None,
            "instructions": request["instructions"] or None,
            "output": output,
            "error": None,
            "tools": [{name: tool[name] for name in shown} for tool in request["tools"] or ()],
            **before,
            "reasoning": {"effort": effort, "summary": summary} if effort or summary else None,
            "usage": usage,
            **after,
        }
