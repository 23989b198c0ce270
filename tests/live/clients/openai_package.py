"""OpenAI's package on Ollama's OpenAI routes: chat, tools, completions, responses, models, embeddings; both clients."""

from __future__ import annotations

from typing import Any

import openai

from tests.live.clients.observing import Call, Given, Seen, raising, run


def opened(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url + "/v1", api_key="ollama", max_retries=0)


def chats(given: Given) -> Seen:
    client = opened(given["url"])
    ask: dict[str, Any] = {"model": given["model"], "messages": given["messages"], "temperature": 0}
    seen: Seen = {}
    seen["chat"] = client.chat.completions.create(**ask).model_dump()
    usage: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    seen["stream"] = [part.model_dump() for part in client.chat.completions.create(**ask, **usage)]
    seen["short"] = client.chat.completions.create(**ask, max_tokens=3).model_dump()
    seen["logprobs"] = client.chat.completions.create(**ask, logprobs=True, top_logprobs=2).model_dump()
    with client.chat.completions.stream(**ask) as stream:  # the package puts the answer together itself
        events = [event.type for event in stream]
        seen["helper"] = {"events": events, "final": stream.get_final_completion().model_dump()}
    parsed = client.chat.completions.parse(**ask | {"messages": given["tool_messages"]}, response_format=Call)
    seen["parse"] = {"parsed": parsed.choices[0].message.parsed.model_dump(), "answer": parsed.model_dump()}
    return seen


def tools(given: Given) -> Seen:
    client = opened(given["url"])
    ask: dict[str, Any] = {"model": given["tool_model"], "temperature": 0, "tools": given["tools"]}
    seen: Seen = {}
    called = client.chat.completions.create(**ask, messages=given["tool_messages"])
    seen["tools"] = called.model_dump()
    stream = client.chat.completions.create(**ask, messages=given["tool_messages"], stream=True)
    seen["tools_stream"] = [part.model_dump() for part in stream]
    message = called.choices[0].message
    calls = message.tool_calls or []
    replies = [{"role": "tool", "tool_call_id": call.id, "content": "22 degrees"} for call in calls]
    after = client.chat.completions.create(**ask, messages=[*given["tool_messages"], message, *replies])
    seen["tools_after"] = after.model_dump()
    return seen


def completions(given: Given) -> Seen:
    client = opened(given["url"])
    ask: dict[str, Any] = {"model": given["model"], "prompt": given["question"], "temperature": 0}
    return {
        "completion": client.completions.create(**ask).model_dump(),
        "completion_stream": [part.model_dump() for part in client.completions.create(**ask, stream=True)],
    }


def responses(given: Given) -> Seen:
    client = opened(given["url"])
    ask: dict[str, Any] = {"model": given["model"], "input": given["question"], "temperature": 0}
    whole = client.responses.create(**ask)
    seen: Seen = {"response": whole.model_dump(), "response_text": whole.output_text}
    seen["response_stream"] = [event.model_dump() for event in client.responses.create(**ask, stream=True)]
    with client.responses.stream(**ask) as stream:
        kinds = [event.type for event in stream]
        seen["response_helper"] = {"events": kinds, "text": stream.get_final_response().output_text}
    parsed = client.responses.parse(**ask | {"input": given["tool_messages"]}, text_format=Call)
    seen["response_parse"] = parsed.output_parsed.model_dump()
    tools = [{"type": "function", **tool["function"]} for tool in given["tools"]]
    called = client.responses.create(
        model=given["tool_model"], input=given["tool_messages"], temperature=0, tools=tools
    )
    seen["response_tools"] = called.model_dump()
    with client.responses.stream(
        model=given["tool_model"], input=given["tool_messages"], temperature=0, tools=tools
    ) as stream:
        stream.until_done()
        seen["response_tools_helper"] = stream.get_final_response().model_dump()
    return seen


def about(given: Given) -> Seen:
    client = opened(given["url"])
    return {
        "models": [model.model_dump() for model in client.models.list()],
        "model": client.models.retrieve(given["model"]).model_dump(),
    }


def embeds(given: Given) -> Seen:
    """By default the package asks for base64 and decodes it itself."""
    client = opened(given["embed_url"])
    ask: dict[str, Any] = {"model": given["embed_model"], "input": given["texts"]}
    seen: Seen = {
        "embeddings": client.embeddings.create(**ask).model_dump(),
        "embeddings_float": client.embeddings.create(**ask, encoding_format="float").model_dump(),
    }
    with raising(seen, "error_embeddings"):
        client.embeddings.create(model=given["embed_model"], input=[])
    return seen


def errors(given: Given) -> Seen:
    client = opened(given["url"])
    ask: dict[str, Any] = {"model": given["model"], "messages": given["messages"]}
    seen: Seen = {}
    with raising(seen, "error_model"):
        client.chat.completions.create(model="nobody", messages=given["messages"])
    with raising(seen, "error_model_stream"):
        list(client.chat.completions.create(model="nobody", messages=given["messages"], stream=True))
    with raising(seen, "error_messages"):
        client.chat.completions.create(model=given["model"], messages=[])
    with raising(seen, "error_effort"):
        client.chat.completions.create(**ask, reasoning_effort="much")
    with raising(seen, "error_retrieve"):
        client.models.retrieve("nobody")
    return seen


async def asynchronous(given: Given) -> Seen:
    client = openai.AsyncOpenAI(base_url=given["url"] + "/v1", api_key="ollama", max_retries=0)
    ask: dict[str, Any] = {"model": given["model"], "messages": given["messages"], "temperature": 0}
    seen: Seen = {}
    seen["async_chat"] = (await client.chat.completions.create(**ask)).model_dump()
    stream = await client.chat.completions.create(**ask, stream=True)
    seen["async_stream"] = [part.model_dump() async for part in stream]
    response = await client.responses.create(model=given["model"], input=given["question"], temperature=0)
    seen["async_response"] = response.output_text
    with raising(seen, "async_error_model"):
        await client.chat.completions.create(model="nobody", messages=given["messages"])
    return seen


if __name__ == "__main__":
    run(["openai"], chats, tools, completions, responses, about, errors, asynchronous, embeds)
