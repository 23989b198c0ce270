"""LlamaIndex's Ollama and OllamaEmbedding."""

from __future__ import annotations

from typing import Any

from llama_index.core.llms import ChatMessage, ChatResponse
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.llms.ollama import Ollama

from tests.live.clients.observing import Call, Given, Seen, raising, run


def get_weather(city: str) -> str:
    """Current weather for a city"""
    return "22 degrees"


def llm(given: Given, **more: Any) -> Ollama:
    return Ollama(**{"model": given["model"], "base_url": given["url"], "temperature": 0.0, **more})


def said(response: ChatResponse) -> dict[str, Any]:
    raw: Any = response.raw
    return {
        "content": response.message.content,
        "delta": response.delta,
        "usage": raw.get("usage"),
        "done_reason": raw.get("done_reason"),
    }


def chats(given: Given) -> Seen:
    model = llm(given)
    messages = [ChatMessage(role=m["role"], content=m["content"]) for m in given["messages"]]
    seen: Seen = {"context_window": model.metadata.context_window}
    seen["chat"] = said(model.chat(messages))
    seen["stream"] = [said(part) for part in model.stream_chat(messages)]
    seen["complete"] = str(model.complete(given["question"]))
    seen["stream_complete"] = [part.delta for part in model.stream_complete(given["question"])]
    seen["json"] = str(llm(given, json_mode=True).complete(given["question"]))
    called = given["tool_messages"][-1]["content"]
    seen["predict"] = model.structured_predict(Call, PromptTemplate(called)).model_dump()
    seen["as_structured"] = model.as_structured_llm(Call).complete(called).raw.model_dump()
    limited = llm(given, additional_kwargs={"num_predict": 3}, context_window=512)
    seen["limited"] = said(limited.chat(messages))
    return seen


def tools(given: Given) -> Seen:
    model = llm(given, model=given["tool_model"])
    question = given["tool_messages"][-1]["content"]
    offered = [FunctionTool.from_defaults(get_weather)]
    response = model.chat_with_tools(offered, user_msg=question)
    calls = model.get_tool_calls_from_response(response, error_on_no_tool_call=False)
    *_, last = model.stream_chat_with_tools(offered, user_msg=question)
    streamed = model.get_tool_calls_from_response(last, error_on_no_tool_call=False)
    return {
        "tools": said(response) | {"calls": [[call.tool_name, call.tool_kwargs] for call in calls]},
        "tools_stream": [[call.tool_name, call.tool_kwargs] for call in streamed],
        "tools_predicted": model.predict_and_call(offered, user_msg=question).response,
    }


def embeds(given: Given) -> Seen:
    model = OllamaEmbedding(model_name=given["embed_model"], base_url=given["embed_url"])
    return {
        "embed_documents": model.get_text_embedding_batch(given["texts"]),
        "embed_query": model.get_query_embedding(given["texts"][0]),
    }


async def embeds_asynchronously(given: Given) -> Seen:
    model = OllamaEmbedding(model_name=given["embed_model"], base_url=given["embed_url"])
    return {"aembed_documents": await model.aget_text_embedding_batch(given["texts"])}


def errors(given: Given) -> Seen:
    seen: Seen = {}
    with raising(seen, "error_model"):
        llm(given, model="nobody", context_window=512).complete("x")
    with raising(seen, "error_show"):  # the context window is asked for first, with /api/show
        llm(given, model="nobody").complete("x")
    return seen


async def asynchronous(given: Given) -> Seen:
    model = llm(given)
    messages = [ChatMessage(role=m["role"], content=m["content"]) for m in given["messages"]]
    stream = await model.astream_chat(messages)
    return {
        "achat": said(await model.achat(messages)),
        "astream": [said(part) async for part in stream],
        "acomplete": str(await model.acomplete(given["question"])),
    }


if __name__ == "__main__":
    packages = ["llama-index-llms-ollama", "llama-index-embeddings-ollama", "llama-index-core"]
    run(packages, chats, tools, errors, asynchronous, embeds, embeds_asynchronously)
