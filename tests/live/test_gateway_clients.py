"""The clients that people use, unchanged and as published, against `migrate gateway serve` over real vLLM.

Each client runs as a script of its own (tests/live/clients) in an environment without this project and tells what it
saw; here it is held to the recordings of a real Ollama, and to the other clients.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from migrate.errors import EngineError
from tests.live.clients import environment
from tests.live.gateway import Running, gateway
from tests.live.gateway_fixtures import Upstream
from tests.ollama.replay import recordings

pytestmark = pytest.mark.live

Seen = dict[str, Any]
Run = Callable[..., Seen]
Recorded = Mapping[str, dict[str, Any]]

QUESTION = "What is the capital of Peru?"
ANSWER = "The capital of Peru is Lima."
COUNTS = (87, 8)
"""Tokens of the prompt and of the answer, as Ollama counted them (recording chat/support-bot/1)."""
Plain = tuple[str, tuple[int, int]]
"""Text and counts of an answer."""

CALL = {"name": "get_weather", "arguments": {"city": "Prague"}}
"""What the small model writes when it is asked for the weather in Oslo, tools or not."""
TOOL_COUNTS = (319, 17)

OLLAMA_ERROR = "ollama._types.ResponseError"
PLACES = ("chats", "tools", "generates", "about", "errors", "asynchronous")
EMBEDS = ("embeds", "embeds_asynchronously")


@pytest.fixture(scope="module")
def recorded(shared: Path) -> Recorded:
    """name -> request and answer of a recording."""
    rows = recordings(shared / "ollama/modern/recordings.jsonl", shared / "ollama/recordings.jsonl")
    return {row["name"]: row for row in rows}  # names that both have mean the first store's


def said(recorded: Recorded, name: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(recorded[name]["response"]["body"])
    return answer


@pytest.fixture(scope="module")
def given(recorded: Recorded) -> dict[str, Any]:
    """What every script is given, apart from the addresses."""
    of_tools = recorded["chat-tools"]["request"]["body"]
    return {
        "model": "support-bot",
        "tool_model": "tool-bot",
        "embed_model": "embed-bot",
        "question": QUESTION,
        "messages": recorded["chat/support-bot/1"]["request"]["body"]["messages"],
        "options": recorded["chat/support-bot/1"]["request"]["body"]["options"],
        "tools": of_tools["tools"],
        "tool_messages": of_tools["messages"],
        "schema": recorded["chat-format-schema"]["request"]["body"]["format"],
        "raw": recorded["generate-raw"]["request"]["body"]["prompt"],
        "system": recorded["generate-system"]["request"]["body"]["system"],
        "template": recorded["generate-template"]["request"]["body"]["template"],
        "texts": recorded["embed/many"]["request"]["body"]["input"],
        "stop": " of",
    }


@pytest.fixture(scope="session")
def python() -> Path:
    return environment.python()


@pytest.fixture(scope="session")
def modules() -> Path:
    try:
        return environment.node_modules()
    except EngineError as error:
        pytest.skip(f"NO NPM CLIENT: {error}; the `ollama` package for Node was not run")


@pytest.fixture(scope="module")
def run(given: dict[str, Any], python: Path, gateway_support: Running) -> Run:
    """What a Python client saw with the chat models."""

    def see(name: str, **more: Any) -> Seen:
        return environment.run_python(name, given | {"url": gateway_support.url, "parts": PLACES} | more, python)

    return see


@pytest.fixture(scope="module")
def run_embed(given: dict[str, Any], python: Path, gateway_embed: Running) -> Callable[[str], Seen]:
    def see(name: str) -> Seen:
        return environment.run_python(name, given | {"embed_url": gateway_embed.url, "parts": EMBEDS}, python)

    return see


@pytest.fixture(scope="module")
def ollama(run: Run) -> Seen:
    return run("ollama_package")


@pytest.fixture(scope="module")
def npm(given: dict[str, Any], modules: Path, gateway_support: Running) -> Seen:
    parts = ("chats", "tools", "generates", "about", "errors")
    return environment.run_node("ollama_npm", given | {"url": gateway_support.url, "parts": parts}, modules)


@pytest.fixture(scope="module")
def langchain(run: Run) -> Seen:
    return run("langchain_models")


@pytest.fixture(scope="module")
def llamaindex(run: Run) -> Seen:
    return run("llamaindex_models")


@pytest.fixture(scope="module")
def openai(run: Run) -> Seen:
    return run("openai_package", parts=(*PLACES, "completions", "responses"))


@pytest.fixture(scope="module")
def anthropic(run: Run) -> Seen:
    return run("anthropic_package", parts=("messages", *PLACES))


def counts(answer: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens of prompt and answer, by whatever names a client has for them."""
    usage = answer.get("usage") or answer
    for names in (
        ("prompt_eval_count", "eval_count"),
        ("prompt_tokens", "completion_tokens"),
        ("input_tokens", "output_tokens"),
    ):
        if names[0] in usage:
            return usage[names[0]], usage[names[1]]
    raise AssertionError(f"no counts in {answer}")


@pytest.fixture(scope="module")
def plain(given: dict[str, Any], gateway_support: Running) -> Plain:
    """What /api/chat answers without any client: greedily, all else as the Modelfile has it.

    That is what clients get that set no repeat_penalty; with it at 1 the answer is the recorded one.
    """
    body = {"model": given["model"], "messages": given["messages"], "options": {"temperature": 0}, "stream": False}
    answer = httpx.post(f"{gateway_support.url}/api/chat", json=body, timeout=60).raise_for_status().json()
    assert answer["message"]["content"].startswith("The capital of ")
    assert counts(answer)[0] == COUNTS[0]
    return answer["message"]["content"], counts(answer)


def error(seen: Seen, name: str) -> tuple[str, int | None]:
    assert seen[name] is not None, f"{name}: no error came"
    return seen[name]["class"], seen[name]["status"]


# ---- the ollama packages --------------------------------------------------------------------------------------------


@pytest.fixture(params=["ollama", "npm"])
def native(request: pytest.FixtureRequest) -> Seen:
    """What either of Ollama's own packages saw."""
    seen: Seen = request.getfixturevalue(request.param)
    return seen


def test_the_question_is_a_recorded_one(recorded: Recorded) -> None:
    answer = said(recorded, "chat/support-bot/1")
    assert (answer["message"]["content"], counts(answer)) == (ANSWER, COUNTS)
    assert json.loads(said(recorded, "chat-format-schema")["message"]["content"]) == CALL
    assert json.loads(said(recorded, "chat-tools")["message"]["content"]) == CALL
    assert counts(said(recorded, "chat-tools")) == TOOL_COUNTS


def test_chat(native: Seen) -> None:
    answer = native["chat"]
    assert (answer["message"]["role"], answer["message"]["content"]) == ("assistant", ANSWER)
    assert counts(answer) == COUNTS
    assert (answer["done"], answer["done_reason"], answer["model"]) == (True, "stop", "support-bot")
    assert answer["total_duration"] >= answer["prompt_eval_duration"] + answer["eval_duration"] > 0
    assert (native["load"]["done_reason"], native["load"]["message"]["content"]) == ("load", "")


def streamed(parts: list[dict[str, Any]], text: Callable[[dict[str, Any]], str], expected: str = ANSWER) -> None:
    """In pieces, the counts with the last alone."""
    assert len([part for part in parts if text(part)]) > 3
    assert "".join(text(part) for part in parts) == expected
    assert [bool(part["done"]) for part in parts] == [False] * (len(parts) - 1) + [True]
    assert all(not part.get("eval_count") for part in parts[:-1])


def test_chat_stream(native: Seen) -> None:
    streamed(native["stream"], lambda part: part["message"]["content"])
    assert counts(native["stream"][-1]) == COUNTS
    assert native["stream"][-1]["done_reason"] == "stop"


def test_structured_output(native: Seen, recorded: Recorded) -> None:
    recording = said(recorded, "chat-format-schema")
    assert native["schema"]["message"]["content"] == recording["message"]["content"]
    assert counts(native["schema"]) == counts(recording)


def test_logprobs(native: Seen, recorded: Recorded) -> None:
    found = native["logprobs"]["logprobs"]
    expected = said(recorded, "chat/support-bot/1")["logprobs"]
    assert [entry["token"] for entry in found] == [entry["token"] for entry in expected]
    for mine, ollamas in zip(found, expected, strict=True):
        assert mine["logprob"] == pytest.approx(ollamas["logprob"], abs=0.15)  # it quantizes activations to Q8_K
        assert len(mine["top_logprobs"]) == 3
        assert mine["top_logprobs"][0]["token"] == mine["token"]


def test_tools(native: Seen) -> None:
    """As calls where the TEMPLATE shows calls without a tag, in the form of the package."""
    answer = native["tools"]
    assert counts(answer) == TOOL_COUNTS, "the tools are in the prompt"
    assert [called(call) for call in answer["message"]["tool_calls"]] == [CALL]
    assert answer["message"]["content"] == ""
    calls = [call for part in native["tools_stream"] for call in part["message"].get("tool_calls") or ()]
    assert [called(call) for call in calls] == [CALL]
    assert native["tools_stream"][-1]["done"]
    after = native["tools_after"]
    assert counts(after)[0] > TOOL_COUNTS[0], "the call and what the tool said are in the prompt"
    assert after["message"]["content"]


def called(call: Mapping[str, Any]) -> dict[str, Any]:
    return {name: call["function"][name] for name in ("name", "arguments")}


def test_a_python_function_as_a_tool(ollama: Seen) -> None:
    assert [called(call) for call in ollama["tools_function"]["message"]["tool_calls"]] == [CALL]


def test_generate(native: Seen, recorded: Recorded) -> None:
    answer = native["generate"]
    assert (answer["response"], counts(answer), answer["done_reason"]) == (ANSWER, COUNTS, "stop")
    prompt = said(recorded, "generate/support-bot")["context"][: COUNTS[0]]
    assert answer["context"][: len(prompt) - 1] == prompt[:-1]
    raw = said(recorded, "generate-raw")
    assert (native["raw"]["response"], counts(native["raw"])) == (raw["response"], counts(raw))
    assert native["raw"].get("context") is None
    assert native["generate_stream"][-1]["context"][:5] == answer["context"][:5]


def test_generate_stream(native: Seen) -> None:
    streamed(native["generate_stream"], lambda part: part["response"])
    assert counts(native["generate_stream"][-1]) == COUNTS


def test_generate_with_its_own_prompt(ollama: Seen, recorded: Recorded) -> None:
    system, template = said(recorded, "generate-system"), said(recorded, "generate-template")
    assert counts(ollama["system"])[0] == counts(system)[0]
    assert ollama["template"]["response"] == template["response"]
    assert (ollama["template"]["context"], counts(ollama["template"])) == (template["context"], counts(template))
    assert json.loads(ollama["generate_schema"]["response"]) == CALL


def test_generate_goes_on(ollama: Seen) -> None:
    first, again = ollama["generate"], ollama["generate_again"]
    assert again["context"][: len(first["context"])] == first["context"]
    assert counts(again)[0] > len(first["context"])


def test_a_modelfiles_own_options(ollama: Seen) -> None:
    """Without options: temperature 0.2 and seed 42, twice the same."""
    answer = ollama["default_options"]
    assert counts(answer)[0] == COUNTS[0]
    assert answer["message"]["content"].startswith("The capital of ")


def test_json(ollama: Seen) -> None:
    assert isinstance(json.loads(ollama["json"]["message"]["content"]), dict)


def test_async(ollama: Seen) -> None:
    assert (ollama["async_chat"]["message"]["content"], counts(ollama["async_chat"])) == (ANSWER, COUNTS)
    streamed(ollama["async_stream"], lambda part: part["message"]["content"])
    assert ollama["async_generate"]["response"] == ANSWER
    assert ollama["async_list"] == ollama["list"]


def test_list_show_ps(native: Seen, recorded: Recorded) -> None:
    listed = {model["model"]: model for model in native["list"]["models"]}
    assert set(listed) == {"support-bot:latest", "tool-bot:latest"}
    ollamas = next(m for m in said(recorded, "tags")["models"] if m["model"] == "support-bot:latest")
    for key in ("digest", "size"):
        assert listed["support-bot:latest"][key] == ollamas[key]
    assert listed["tool-bot:latest"]["details"]["parent_model"] == "support-bot:latest"

    shown, recording = native["show"], said(recorded, "show/support-bot")
    for key in ("template", "license"):
        assert shown[key] == recording[key]
    lines = [sorted(about["parameters"].splitlines()) for about in (shown, recording)]
    assert lines[0] == lines[1], "Ollama's own order is a Go map's"
    assert shown["capabilities"] == ["completion", "tools"]
    info = shown.get("model_info") or shown["modelinfo"]
    assert info["llama.context_length"] == recording["model_info"]["llama.context_length"]

    assert [model["model"] for model in native["ps"]["models"]] == ["support-bot:latest", "tool-bot:latest"]
    assert native["ps"]["models"][0]["context_length"] == 1024


def test_version(npm: Seen, recorded: Recorded) -> None:
    ollamas = said(recorded, "version")["version"].partition("-")[0]
    assert npm["version"]["version"].partition("-")[0] == ollamas


ERRORS = {
    "error_model": (404, "model 'nobody' not found"),
    "error_model_stream": (404, "model 'nobody' not found"),
    "error_show": (404, "model 'nobody:latest' not found"),
    "error_think": (400, '"support-bot" does not support thinking'),
    "error_pull": (403, "models are not pulled here"),
    "error_delete": (403, "models are not deleted here"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str, native: Seen) -> None:
    status, text = ERRORS[name]
    kind = "ResponseError" if "node" in native["versions"] else OLLAMA_ERROR
    assert error(native, name) == (kind, status)
    assert text in native[name]["text"]


MORE_ERRORS = {
    "error_generate": (404, "model 'nobody' not found"),
    "error_suffix": (400, "registry.ollama.ai/library/support-bot:latest does not support insert"),
    "error_embed": (501, "This server does not support embeddings"),
    "error_create": (403, "models are not created here"),
    "error_copy": (403, "models are not copied here"),
    "error_delete_unknown": (404, "model 'nobody' not found"),
    "async_error_model": (404, "model 'nobody' not found"),
}


@pytest.mark.parametrize("name", MORE_ERRORS)
def test_more_errors(name: str, ollama: Seen) -> None:
    status, text = MORE_ERRORS[name]
    assert error(ollama, name) == (OLLAMA_ERROR, status)
    assert text in ollama[name]["text"]


def test_leaving_in_the_middle(npm: Seen) -> None:
    assert npm["before_abort"]["done"] is False
    assert error(npm, "error_abort") == ("AbortError", None)


def test_the_versions_that_were_run(ollama: Seen, npm: Seen) -> None:
    assert f"ollama=={ollama['versions']['ollama']}" in environment.PACKAGES
    assert npm["versions"]["ollama"] == environment.NPM_OLLAMA


# ---- LangChain and LlamaIndex ---------------------------------------------------------------------------------------


def test_langchain_chat(langchain: Seen, plain: Plain) -> None:
    for answer in (langchain["invoke"], langchain["ainvoke"], *langchain["batch"]):
        assert (answer["content"], counts(answer)) == plain
        assert answer["about"]["done_reason"] == "stop"
    for name in ("stream", "astream"):
        assert len([part for part in langchain[name] if part["content"]]) > 3
        assert "".join(part["content"] for part in langchain[name]) == plain[0]
        assert [counts(part) for part in langchain[name] if part["usage"]] == [plain[1]]
    assert langchain["llm"] == "".join(langchain["llm_stream"]) == plain[0]
    assert len(langchain["llm_stream"]) > 3


def test_langchain_options(langchain: Seen, plain: Plain) -> None:
    assert (langchain["limited"]["content"], counts(langchain["limited"])) == ("The capital of", (COUNTS[0], 3))
    assert langchain["limited"]["about"]["done_reason"] == "length"
    assert (langchain["stop"]["content"], langchain["stop"]["about"]["done_reason"]) == ("The capital", "stop")
    assert "".join(langchain["logprobs"]) == plain[0]
    assert isinstance(json.loads(langchain["json"]["content"]), dict)


def test_langchain_structured_output(langchain: Seen) -> None:
    """`with_structured_output` sends the class as a JSON schema with definitions, and reads it into the class."""
    assert langchain["structured"] == langchain["structured_raw"]["parsed"] == CALL
    assert json.loads(langchain["structured_raw"]["raw"]["content"]) == CALL


def test_langchain_tools(langchain: Seen) -> None:
    for answer in (langchain["tools"], langchain["tools_given"]):
        assert [(call["name"], call["args"]) for call in answer["tool_calls"]] == [tuple(CALL.values())]
    streamed_calls = [call for part in langchain["tools_stream"] for call in part["tool_calls"]]
    assert [(call["name"], call["args"]) for call in streamed_calls] == [tuple(CALL.values())]
    assert counts(langchain["tools_given"]) == TOOL_COUNTS
    assert counts(langchain["tools_after"])[0] > counts(langchain["tools"])[0]


def test_langchain_errors(langchain: Seen) -> None:
    assert error(langchain, "error_model") == (OLLAMA_ERROR, 404)
    assert error(langchain, "error_reasoning") == (OLLAMA_ERROR, 400)
    assert "Model `nobody` not found in Ollama" in langchain["error_validate"]["text"]


def test_llamaindex_chat(llamaindex: Seen, plain: Plain) -> None:
    for answer in (llamaindex["chat"], llamaindex["achat"]):
        assert (answer["content"], counts(answer), answer["done_reason"]) == (*plain, "stop")
    for name in ("stream", "astream"):
        parts = llamaindex[name]
        assert len([part for part in parts if part["delta"]]) > 3
        assert "".join(part["delta"] for part in parts) == parts[-1]["content"] == plain[0]
        assert [counts(part) for part in parts if part["usage"]] == [plain[1]]
    assert llamaindex["complete"] == llamaindex["acomplete"] == "".join(llamaindex["stream_complete"]) == plain[0]
    assert (llamaindex["limited"]["content"], counts(llamaindex["limited"])) == ("The capital of", (COUNTS[0], 3))


def test_llamaindex_asks_for_the_models_whole_context(llamaindex: Seen) -> None:
    """It sends `num_ctx` with every request, from /api/show; the server has 1024, and the answers are the same."""
    assert llamaindex["context_window"] == 2048


def test_llamaindex_structured_output_and_tools(llamaindex: Seen) -> None:
    assert llamaindex["predict"] == llamaindex["as_structured"] == CALL
    assert isinstance(json.loads(llamaindex["json"]), dict)
    assert llamaindex["tools"]["calls"] == llamaindex["tools_stream"] == [list(CALL.values())]
    assert llamaindex["tools_predicted"] == "22 degrees"


def test_llamaindex_errors(llamaindex: Seen) -> None:
    assert error(llamaindex, "error_model") == error(llamaindex, "error_show") == (OLLAMA_ERROR, 404)


# ---- OpenAI's and Anthropic's packages ------------------------------------------------------------------------------


def choice(answer: Mapping[str, Any]) -> dict[str, Any]:
    (only,) = answer["choices"]
    found: dict[str, Any] = only
    return found


def test_openai_chat(openai: Seen, plain: Plain) -> None:
    for answer in (openai["chat"], openai["async_chat"]):
        assert (choice(answer)["message"]["content"], choice(answer)["finish_reason"]) == (plain[0], "stop")
        assert counts(answer) == plain[1]
    assert (choice(openai["short"])["message"]["content"], counts(openai["short"])[1]) == ("The capital of", 3)
    assert choice(openai["short"])["finish_reason"] == "length"
    tokens = choice(openai["logprobs"])["logprobs"]["content"]
    assert "".join(entry["token"] for entry in tokens) == plain[0]
    assert all(len(entry["top_logprobs"]) == 2 for entry in tokens)


def test_openai_stream(openai: Seen, plain: Plain) -> None:
    *parts, last = openai["stream"]
    assert (last["choices"], counts(last)) == ([], plain[1])
    for chunks in (parts, openai["async_stream"]):
        pieces = [choice(part)["delta"]["content"] for part in chunks if part["choices"]]
        assert len(pieces) > 3
        assert "".join(piece or "" for piece in pieces) == plain[0]
        assert [choice(part)["finish_reason"] for part in chunks][-1] == "stop"
    assert choice(openai["helper"]["final"])["message"]["content"] == plain[0]
    assert openai["helper"]["events"][-1] == "content.done"


def test_openai_structured_output(openai: Seen) -> None:
    assert openai["parse"]["parsed"] == openai["response_parse"] == CALL


def test_openai_tools(openai: Seen) -> None:
    (call,) = choice(openai["tools"])["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", CALL["name"])
    assert json.loads(call["function"]["arguments"]) == CALL["arguments"]
    assert choice(openai["tools"])["finish_reason"] == "tool_calls"
    assert counts(openai["tools"]) == TOOL_COUNTS
    deltas = [choice(part)["delta"]["tool_calls"] for part in openai["tools_stream"]]
    (piece,) = [piece for delta in deltas for piece in delta or ()]
    assert json.loads(piece["function"]["arguments"]) == CALL["arguments"]
    assert counts(openai["tools_after"])[0] > TOOL_COUNTS[0]


def test_openai_completions(openai: Seen, plain: Plain) -> None:
    """As with Ollama the prompt goes through the TEMPLATE."""
    assert (choice(openai["completion"])["text"], counts(openai["completion"])) == plain
    assert "".join(choice(part)["text"] for part in openai["completion_stream"]) == plain[0]
    assert len(openai["completion_stream"]) > 3


def test_openai_responses(openai: Seen, plain: Plain) -> None:
    assert openai["response_text"] == openai["async_response"] == openai["response_helper"]["text"] == plain[0]
    assert counts(openai["response"]) == plain[1]
    kinds = [event["type"] for event in openai["response_stream"]]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert kinds.count("response.output_text.delta") > 3
    deltas = [event["delta"] for event in openai["response_stream"] if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == plain[0]
    for name in ("response_tools", "response_tools_helper"):
        (call,) = openai[name]["output"]
        assert (call["type"], call["name"], json.loads(call["arguments"])) == ("function_call", *CALL.values())


def test_openai_models(openai: Seen) -> None:
    assert [model["id"] for model in openai["models"]] == ["support-bot:latest", "tool-bot:latest"]
    assert (openai["model"]["id"], openai["model"]["object"]) == ("support-bot", "model")


@pytest.mark.parametrize(
    ("name", "kind", "status"),
    [
        ("error_model", "openai.NotFoundError", 404),
        ("error_model_stream", "openai.NotFoundError", 404),
        ("error_retrieve", "openai.NotFoundError", 404),
        ("error_messages", "openai.BadRequestError", 400),
        ("error_effort", "openai.BadRequestError", 400),
        ("async_error_model", "openai.NotFoundError", 404),
    ],
)
def test_openai_errors(name: str, kind: str, status: int, openai: Seen) -> None:
    assert error(openai, name) == (kind, status)


def test_anthropic_messages(anthropic: Seen, plain: Plain) -> None:
    for message in (anthropic["message"], anthropic["async_message"], anthropic["final"]):
        assert [block["text"] for block in message["content"]] == [plain[0]]
        assert (message["stop_reason"], counts(message)) == ("end_turn", plain[1])
    assert (anthropic["short"]["stop_reason"], counts(anthropic["short"])) == ("max_tokens", (COUNTS[0], 3))
    assert counts(anthropic["default"])[0] == COUNTS[0]
    for pieces in (anthropic["stream"], anthropic["async_stream"]):
        assert len(pieces) > 3
        assert "".join(pieces) == plain[0]
    kinds = [event["type"] for event in anthropic["events"]]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")


def test_anthropic_system(anthropic: Seen, recorded: Recorded) -> None:
    assert counts(anthropic["system"])[0] == counts(said(recorded, "generate-system"))[0]


def test_anthropic_tools(anthropic: Seen) -> None:
    for message in (anthropic["tools"], anthropic["tools_stream"]):
        (block,) = message["content"]
        assert (block["type"], block["name"], block["input"]) == ("tool_use", *CALL.values())
        assert (message["stop_reason"], counts(message)) == ("tool_use", TOOL_COUNTS)
    assert counts(anthropic["tools_after"])[0] > TOOL_COUNTS[0]


@pytest.mark.parametrize(
    ("name", "kind", "status"),
    [
        ("error_model", "anthropic.NotFoundError", 404),
        ("error_model_stream", "anthropic.NotFoundError", 404),
        ("error_max_tokens", "anthropic.BadRequestError", 400),
        ("error_messages", "anthropic.BadRequestError", 400),
        ("async_error_model", "anthropic.NotFoundError", 404),
    ],
)
def test_anthropic_errors(name: str, kind: str, status: int, anthropic: Seen) -> None:
    assert error(anthropic, name) == (kind, status)


def test_all_of_them_count_alike(
    ollama: Seen, langchain: Seen, llamaindex: Seen, openai: Seen, anthropic: Seen, plain: Plain
) -> None:
    """One question over five clients and five routes."""
    answers = [langchain["invoke"], llamaindex["chat"], openai["chat"], openai["completion"], openai["response"]]
    assert {counts(answer) for answer in [*answers, anthropic["message"]]} == {plain[1]}
    assert counts(ollama["chat"]) == counts(ollama["generate"]) == COUNTS
    assert {counts(answer)[0] for answer in answers} == {COUNTS[0]}


def test_routes_passed_on_to_vllm(run: Run, gateway_passing: Running, vllm_support: Upstream) -> None:
    """`openai: vllm`: vLLM's own answers, from the same template."""
    seen = run("passed_on", url=gateway_passing.url, parts=("passed_on",))
    asked = {"model": "support-bot", "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    direct = httpx.post(f"{vllm_support[0]}/v1/chat/completions", json=asked, timeout=60).raise_for_status().json()
    text, counted = choice(direct)["message"]["content"], counts(direct)
    assert counted[0] == COUNTS[0]
    assert (choice(seen["chat"])["message"]["content"], counts(seen["chat"])) == (text, counted)
    assert "".join(choice(part)["delta"]["content"] or "" for part in seen["stream"]) == text
    assert len(seen["stream"]) > 3
    assert counts(seen["tools"])[0] > 2 * COUNTS[0], "the tools are in the prompt"
    assert choice(seen["raw"])["text"] == "3+4 is 7."
    assert seen["response"] == text
    assert seen["models"] == ["support-bot:latest", "tool-bot:latest"]
    assert [block["text"] for block in seen["message"]["content"]] == [text]
    assert counts(seen["message"]) == counts(seen["message_final"]) == counted
    assert seen["count"] == COUNTS[0]
    assert ("".join(seen["message_stream"]), len(seen["message_stream"]) > 3) == (text, True)
    assert error(seen, "error_model") == ("openai.NotFoundError", 404)
    assert error(seen, "error_messages") == ("openai.BadRequestError", 400)
    assert error(seen, "error_message_model") == ("anthropic.NotFoundError", 404)


def test_keys(run: Run, vllm_support: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client's own way to send a key."""
    monkeypatch.setenv("CLIENT_KEYS", "first,second")
    url, bundle = vllm_support
    models: list[Mapping[str, Any]] = [{"bundle": bundle, "upstream": "vllm"}]
    with gateway(tmp_path, {"vllm": url}, models, api_keys_env="CLIENT_KEYS") as running:
        seen = run("keys", url=running.url, key="second", parts=("keys",))
    assert [seen[f"{name}_right"] for name in ("ollama", "openai", "anthropic")] == [None, None, None]
    assert error(seen, "ollama_wrong") == (OLLAMA_ERROR, 401)
    assert error(seen, "openai_wrong") == ("openai.AuthenticationError", 401)
    assert error(seen, "anthropic_wrong") == ("anthropic.AuthenticationError", 401)


# ---- embeddings -----------------------------------------------------------------------------------------------------


def alike(found: list[list[float]], recorded: Recorded) -> None:
    """The recorded vectors: of length 1, in their direction."""
    expected = np.array(said(recorded, "embed/many")["embeddings"])
    vectors = np.array(found)
    assert vectors.shape == expected.shape == (3, 256)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-4)
    assert (vectors * expected).sum(axis=1).min() > 0.9999


def test_ollama_embeddings(run_embed: Callable[[str], Seen], recorded: Recorded) -> None:
    seen = run_embed("ollama_package")
    for name in ("embed", "async_embed"):
        alike(seen[name]["embeddings"], recorded)
        assert seen[name]["prompt_eval_count"] == said(recorded, "embed/many")["prompt_eval_count"]
    first = seen["embed"]["embeddings"][0]
    assert seen["embed_one"]["embeddings"] == [pytest.approx(first, abs=1e-5)]
    short = np.array(seen["embed_short"]["embeddings"])
    assert short.shape == (3, 16)
    assert short[0] @ np.array(said(recorded, "embed/dimensions")["embeddings"][0]) > 0.9999
    old, expected = np.array(seen["embeddings"]["embedding"]), np.array(said(recorded, "embeddings/old")["embedding"])
    assert old @ expected / np.linalg.norm(old) / np.linalg.norm(expected) > 0.9999
    assert error(seen, "error_chat") == (OLLAMA_ERROR, 400)
    assert said(recorded, "chat-on-embedding-model")["error"] in seen["error_chat"]["text"]


def test_npm_embeddings(given: dict[str, Any], modules: Path, gateway_embed: Running, recorded: Recorded) -> None:
    more = {"url": gateway_embed.url, "embed_url": gateway_embed.url, "parts": ["embeds"]}
    seen = environment.run_node("ollama_npm", given | more, modules)
    alike(seen["embed"]["embeddings"], recorded)
    assert seen["embeddings"]["embedding"] == pytest.approx(seen["embed"]["embeddings"][0], abs=1e-5)


@pytest.mark.parametrize("name", ["langchain_models", "llamaindex_models"])
def test_embeddings_of_the_frameworks(name: str, run_embed: Callable[[str], Seen], recorded: Recorded) -> None:
    seen = run_embed(name)
    alike(seen["embed_documents"], recorded)
    alike(seen["aembed_documents"], recorded)
    assert seen["embed_query"] == pytest.approx(seen["embed_documents"][0], abs=1e-5)


def test_openai_embeddings(run_embed: Callable[[str], Seen], recorded: Recorded) -> None:
    """In base64, as the package asks by itself, and as numbers."""
    seen = run_embed("openai_package")
    for name in ("embeddings", "embeddings_float"):
        assert [row["index"] for row in seen[name]["data"]] == [0, 1, 2]
        alike([row["embedding"] for row in seen[name]["data"]], recorded)
        assert seen[name]["usage"]["prompt_tokens"] == said(recorded, "embed/many")["prompt_eval_count"]
    assert error(seen, "error_embeddings") == ("openai.BadRequestError", 400)
