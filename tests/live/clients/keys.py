"""The ways in which the clients send a key, each with the right one and with a wrong one."""

from __future__ import annotations

import anthropic
import ollama
import openai

from tests.live.clients.observing import Given, Seen, raising, run


def keys(given: Given) -> Seen:
    seen: Seen = {}
    for name, key in (("right", given["key"]), ("wrong", "none")):
        with raising(seen, f"ollama_{name}"):
            client = ollama.Client(host=given["url"], headers={"Authorization": f"Bearer {key}"})
            client.chat(model=given["model"], messages=given["messages"])
        with raising(seen, f"openai_{name}"):
            sdk = openai.OpenAI(base_url=given["url"] + "/v1", api_key=key, max_retries=0)
            sdk.chat.completions.create(model=given["model"], messages=given["messages"])
        with raising(seen, f"anthropic_{name}"):
            claude = anthropic.Anthropic(base_url=given["url"], api_key=key, max_retries=0)
            claude.messages.create(model=given["model"], messages=given["messages"], max_tokens=8)
    return seen


if __name__ == "__main__":
    run(["anthropic", "ollama", "openai"], keys)
