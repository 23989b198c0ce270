"""Anthropic's package on /v1/messages: whole, streamed, with tools, with errors; both clients."""

from __future__ import annotations

from typing import Any

import anthropic

from tests.live.clients.observing import Given, Seen, raising, run

GREEDY: dict[str, Any] = {"extra_body": {"temperature": 0}}
"""Version 2 of the package has no argument for the temperature any more; the route still takes it."""


def messages(given: Given) -> Seen:
    client = anthropic.Anthropic(base_url=given["url"], api_key="ollama", max_retries=0)
    ask: dict[str, Any] = {"model": given["model"], "messages": given["messages"], "max_tokens": 64, **GREEDY}
    seen: Seen = {}
    seen["message"] = client.messages.create(**ask).model_dump()
    seen["default"] = client.messages.create(
        model=given["model"], messages=given["messages"], max_tokens=64
    ).model_dump()
    seen["short"] = client.messages.create(**ask | {"max_tokens": 3}).model_dump()
    seen["system"] = client.messages.create(**ask, system=given["system"]).model_dump()
    seen["events"] = [event.model_dump() for event in client.messages.create(**ask, stream=True)]
    with client.messages.stream(**ask) as stream:  # the package puts the answer together itself
        seen["stream"] = list(stream.text_stream)
        seen["final"] = stream.get_final_message().model_dump()
    return seen


def tools(given: Given) -> Seen:
    client = anthropic.Anthropic(base_url=given["url"], api_key="ollama", max_retries=0)
    functions = [tool["function"] for tool in given["tools"]]
    described = [
        {"name": f["name"], "description": f["description"], "input_schema": f["parameters"]} for f in functions
    ]
    ask: dict[str, Any] = {"model": given["tool_model"], "max_tokens": 64, **GREEDY, "tools": described}
    seen: Seen = {}
    called = client.messages.create(**ask, messages=given["tool_messages"])
    seen["tools"] = called.model_dump()
    with client.messages.stream(**ask, messages=given["tool_messages"]) as stream:
        seen["tools_stream"] = stream.get_final_message().model_dump()
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": "22 degrees"}
        for block in called.content
        if block.type == "tool_use"
    ]
    said = [*given["tool_messages"], {"role": "assistant", "content": called.content}]
    seen["tools_after"] = client.messages.create(
        **ask, messages=[*said, {"role": "user", "content": results}]
    ).model_dump()
    return seen


def errors(given: Given) -> Seen:
    client = anthropic.Anthropic(base_url=given["url"], api_key="ollama", max_retries=0)
    seen: Seen = {}
    with raising(seen, "error_model"):
        client.messages.create(model="nobody", messages=given["messages"], max_tokens=4)
    with raising(seen, "error_model_stream"):
        list(client.messages.create(model="nobody", messages=given["messages"], max_tokens=4, stream=True))
    with raising(seen, "error_max_tokens"):
        client.messages.create(model=given["model"], messages=given["messages"], max_tokens=0)
    with raising(seen, "error_messages"):
        client.messages.create(model=given["model"], messages=[], max_tokens=4)
    return seen


async def asynchronous(given: Given) -> Seen:
    client = anthropic.AsyncAnthropic(base_url=given["url"], api_key="ollama", max_retries=0)
    ask: dict[str, Any] = {"model": given["model"], "messages": given["messages"], "max_tokens": 64, **GREEDY}
    seen: Seen = {"async_message": (await client.messages.create(**ask)).model_dump()}
    async with client.messages.stream(**ask) as stream:
        seen["async_stream"] = [text async for text in stream.text_stream]
    with raising(seen, "async_error_model"):
        await client.messages.create(model="nobody", messages=given["messages"], max_tokens=4)
    return seen


if __name__ == "__main__":
    run(["anthropic"], messages, tools, errors, asynchronous)
