"""LangChain's ChatOllama, OllamaLLM and OllamaEmbeddings."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM

from tests.live.clients.observing import Call, Given, Seen, raising, run


def get_weather(city: str) -> str:
    """Current weather for a city"""
    return "22 degrees"


def message(said: AIMessage) -> dict[str, Any]:
    """Of a message or a chunk of one: what a program reads."""
    return {
        "content": said.content,
        "tool_calls": said.tool_calls,
        "usage": said.usage_metadata,
        "about": said.response_metadata,
    }


def chat(given: Given, **more: Any) -> ChatOllama:
    return ChatOllama(**{"model": given["model"], "base_url": given["url"], "temperature": 0, **more})


def chats(given: Given) -> Seen:
    llm = chat(given, validate_model_on_init=True)
    seen: Seen = {}
    seen["invoke"] = message(llm.invoke(given["messages"]))
    seen["stream"] = [message(part) for part in llm.stream(given["messages"])]
    seen["batch"] = [message(said) for said in llm.batch([given["question"], given["question"]])]
    limited = chat(given, num_predict=3, num_ctx=512, top_k=5, seed=1, repeat_penalty=1.0, keep_alive="5m")
    seen["limited"] = message(limited.invoke(given["messages"]))
    seen["stop"] = message(llm.invoke(given["messages"], stop=[given["stop"]]))
    counted = chat(given, logprobs=True, top_logprobs=2).invoke(given["messages"])
    seen["logprobs"] = [entry["token"] for entry in counted.response_metadata["logprobs"]]
    seen["json"] = message(chat(given, format="json").invoke(given["messages"]))
    seen["structured"] = llm.with_structured_output(Call).invoke(given["tool_messages"]).model_dump()
    raw: Any = llm.with_structured_output(Call, include_raw=True).invoke(given["tool_messages"])
    seen["structured_raw"] = {"parsed": raw["parsed"].model_dump(), "raw": message(raw["raw"])}
    completion = OllamaLLM(model=given["model"], base_url=given["url"], temperature=0)
    seen["llm"] = completion.invoke(given["question"])
    seen["llm_stream"] = list(completion.stream(given["question"]))
    return seen


def tools(given: Given) -> Seen:
    llm = chat(given, model=given["tool_model"]).bind_tools([tool(get_weather)])
    seen: Seen = {}
    asked: list[Any] = list(given["tool_messages"])
    called = llm.invoke(asked)
    seen["tools"] = message(called)
    seen["tools_stream"] = [message(part) for part in llm.stream(asked)]
    results = [ToolMessage("22 degrees", tool_call_id=call["id"]) for call in called.tool_calls]
    seen["tools_after"] = message(llm.invoke([*asked, called, *results]))
    seen["tools_given"] = message(chat(given, model=given["tool_model"]).bind_tools(given["tools"]).invoke(asked))
    return seen


def embeds(given: Given) -> Seen:
    embeddings = OllamaEmbeddings(model=given["embed_model"], base_url=given["embed_url"], validate_model_on_init=True)
    return {
        "embed_documents": embeddings.embed_documents(given["texts"]),
        "embed_query": embeddings.embed_query(given["texts"][0]),
    }


async def embeds_asynchronously(given: Given) -> Seen:
    embeddings = OllamaEmbeddings(model=given["embed_model"], base_url=given["embed_url"])
    return {"aembed_documents": await embeddings.aembed_documents(given["texts"])}


def errors(given: Given) -> Seen:
    seen: Seen = {}
    with raising(seen, "error_model"):
        chat(given, model="nobody").invoke(given["messages"])
    with raising(seen, "error_validate"):
        chat(given, model="nobody", validate_model_on_init=True)
    with raising(seen, "error_reasoning"):
        chat(given, reasoning=True).invoke(given["messages"])
    return seen


async def asynchronous(given: Given) -> Seen:
    llm = chat(given)
    return {
        "ainvoke": message(await llm.ainvoke(given["messages"])),
        "astream": [message(part) async for part in llm.astream(given["messages"])],
    }


if __name__ == "__main__":
    run(["langchain-ollama", "langchain-core"], chats, tools, errors, asynchronous, embeds, embeds_asynchronously)
