"""The `ollama` package for Python: everything a program does with it, first as written, then with AsyncClient."""

from __future__ import annotations

from typing import Any

import ollama

from tests.live.clients.observing import Given, Seen, raising, run


def answer(response: ollama.ChatResponse) -> dict[str, Any]:
    return response.model_dump()


def chats(given: Given) -> Seen:
    client = ollama.Client(host=given["url"])
    model, messages, options = given["model"], given["messages"], given["options"]
    seen: Seen = {}
    seen["chat"] = answer(client.chat(model=model, messages=messages, options=options))
    seen["stream"] = [
        answer(part) for part in client.chat(model=model, messages=messages, options=options, stream=True)
    ]
    seen["default_options"] = answer(client.chat(model=model, messages=messages))
    seen["json"] = answer(client.chat(model=model, messages=messages, options=options, format="json"))
    called = given["tool_messages"]
    seen["schema"] = answer(client.chat(model=model, messages=called, options=options, format=given["schema"]))
    seen["logprobs"] = answer(
        client.chat(model=model, messages=messages, options=options, logprobs=True, top_logprobs=3)
    )
    seen["load"] = answer(client.chat(model=model, messages=[]))
    return seen


def get_weather(city: str) -> str:
    """Current weather for a city"""
    return "22 degrees"


def tools(given: Given) -> Seen:
    """Tools as JSON and as a Python function, whole and streamed, and the answer after the tool's."""
    client = ollama.Client(host=given["url"])
    ask: dict[str, Any] = {"model": given["tool_model"], "messages": given["tool_messages"]}
    ask["options"] = given["options"]
    seen: Seen = {}
    seen["tools"] = answer(called := client.chat(**ask, tools=given["tools"]))
    seen["tools_stream"] = [answer(part) for part in client.chat(**ask, tools=given["tools"], stream=True)]
    seen["tools_function"] = answer(client.chat(**ask, tools=[get_weather]))
    ask["messages"] = [
        *given["tool_messages"],
        called.message,
        {"role": "tool", "tool_name": "get_weather", "content": "22 degrees"},
    ]
    seen["tools_after"] = answer(client.chat(**ask, tools=given["tools"]))
    return seen


def generates(given: Given) -> Seen:
    client = ollama.Client(host=given["url"])
    ask: dict[str, Any] = {"model": given["model"], "options": given["options"]}
    seen: Seen = {}
    seen["generate"] = (first := client.generate(**ask, prompt=given["question"])).model_dump()
    stream = client.generate(**ask, prompt=given["question"], stream=True)
    seen["generate_stream"] = [part.model_dump() for part in stream]
    seen["generate_again"] = client.generate(**ask, prompt="And of Peru?", context=first.context).model_dump()
    seen["raw"] = client.generate(**ask, prompt=given["raw"], raw=True).model_dump()
    seen["system"] = client.generate(**ask, prompt=given["question"], system=given["system"]).model_dump()
    seen["template"] = client.generate(**ask, prompt=given["question"], template=given["template"]).model_dump()
    called = given["tool_messages"][-1]["content"]
    seen["generate_schema"] = client.generate(**ask, prompt=called, format=given["schema"]).model_dump()
    return seen


def about(given: Given) -> Seen:
    client = ollama.Client(host=given["url"])
    return {
        "list": client.list().model_dump(mode="json"),
        "ps": client.ps().model_dump(mode="json"),
        "show": client.show(given["model"]).model_dump(mode="json"),
    }


def embeds(given: Given) -> Seen:
    client = ollama.Client(host=given["embed_url"])
    model = given["embed_model"]
    seen: Seen = {
        "embed_one": client.embed(model=model, input=given["texts"][0]).model_dump(),
        "embed": client.embed(model=model, input=given["texts"]).model_dump(),
        "embed_short": client.embed(model=model, input=given["texts"], dimensions=16).model_dump(),
        "embeddings": client.embeddings(model=model, prompt=given["texts"][0]).model_dump(),
    }
    with raising(seen, "error_chat"):
        client.chat(model=model, messages=given["messages"])
    return seen


async def embeds_asynchronously(given: Given) -> Seen:
    client = ollama.AsyncClient(host=given["embed_url"])
    return {"async_embed": (await client.embed(model=given["embed_model"], input=given["texts"])).model_dump()}


def errors(given: Given) -> Seen:
    client, model = ollama.Client(host=given["url"]), given["model"]
    seen: Seen = {}
    with raising(seen, "error_model"):
        client.chat(model="nobody", messages=given["messages"])
    with raising(seen, "error_model_stream"):
        list(client.chat(model="nobody", messages=given["messages"], stream=True))
    with raising(seen, "error_generate"):
        client.generate(model="nobody", prompt="x")
    with raising(seen, "error_show"):
        client.show("nobody")
    with raising(seen, "error_think"):
        client.chat(model=model, messages=given["messages"], think=True)
    with raising(seen, "error_suffix"):
        client.generate(model=model, prompt="a", suffix="b")
    with raising(seen, "error_embed"):
        client.embed(model=model, input="x")
    with raising(seen, "error_pull"):
        client.pull("llama3")
    with raising(seen, "error_create"):
        client.create("mine", from_=model)
    with raising(seen, "error_copy"):
        client.copy(model, "mine")
    with raising(seen, "error_delete"):
        client.delete(model)
    with raising(seen, "error_delete_unknown"):
        client.delete("nobody")
    return seen


async def asynchronous(given: Given) -> Seen:
    client = ollama.AsyncClient(host=given["url"])
    ask: dict[str, Any] = {"model": given["model"], "options": given["options"]}
    seen: Seen = {}
    seen["async_chat"] = answer(await client.chat(**ask, messages=given["messages"]))
    stream = await client.chat(**ask, messages=given["messages"], stream=True)
    seen["async_stream"] = [answer(part) async for part in stream]
    seen["async_generate"] = (await client.generate(**ask, prompt=given["question"])).model_dump()
    seen["async_list"] = (await client.list()).model_dump(mode="json")
    with raising(seen, "async_error_model"):
        await client.chat(model="nobody", messages=given["messages"])
    return seen


if __name__ == "__main__":
    run(["ollama"], chats, tools, generates, about, errors, asynchronous, embeds, embeds_asynchronously)
