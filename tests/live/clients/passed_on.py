"""OpenAI's and Anthropic's packages where the gateway passes their routes on to vLLM."""

from __future__ import annotations

from typing import Any

import anthropic
import openai

from tests.live.clients.observing import Given, Seen, raising, run

MORE: dict[str, Any] = {"max_tokens": 64, "extra_body": {"temperature": 0}}


def passed_on(given: Given) -> Seen:
    client = openai.OpenAI(base_url=given["url"] + "/v1", api_key="none", max_retries=0)
    ask: dict[str, Any] = {"model": given["model"], "messages": given["messages"], "temperature": 0}
    seen: Seen = {"chat": client.chat.completions.create(**ask).model_dump()}
    seen["stream"] = [part.model_dump() for part in client.chat.completions.create(**ask, stream=True)]
    seen["tools"] = client.chat.completions.create(**ask, tools=given["tools"]).model_dump()
    seen["raw"] = client.completions.create(model=given["model"], prompt=given["raw"], temperature=0).model_dump()
    seen["response"] = client.responses.create(model=given["model"], input=given["messages"], temperature=0).output_text
    seen["models"] = [model.id for model in client.models.list()]
    with raising(seen, "error_model"):
        client.chat.completions.create(model="nobody", messages=given["messages"])
    with raising(seen, "error_messages"):
        client.chat.completions.create(model=given["model"], messages=[])

    claude = anthropic.Anthropic(base_url=given["url"], api_key="none", max_retries=0)
    about: dict[str, Any] = {"model": given["model"], "messages": given["messages"]}
    seen["message"] = claude.messages.create(**about, **MORE).model_dump()
    seen["count"] = claude.messages.count_tokens(**about).input_tokens
    with claude.messages.stream(**about, **MORE) as stream:
        seen["message_stream"] = list(stream.text_stream)
        seen["message_final"] = stream.get_final_message().model_dump()
    with raising(seen, "error_message_model"):
        claude.messages.create(model="nobody", messages=given["messages"], max_tokens=4)
    return seen


if __name__ == "__main__":
    run(["anthropic", "openai"], passed_on)
