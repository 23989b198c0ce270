from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.parity.clients import RULES, Client, ClientRequest, page, verdicts
from migrate.parity.clients.rule import stop_limit
from migrate.parity.clients.verdicts import describe, matches
from migrate.parity.facts import BundleFacts
from migrate.parity.report import ClientVerdict, Verdict
from tests.conftest import REPO
from tests.live.test_clients import CASES, IN_HEADERS

CHAT, GENERATE, V1, COMPLETIONS = "/api/chat", "/api/generate", "/v1/chat/completions", "/v1/completions"
SAY = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
TEMPLATE = (
    "{{ range .Tools }}{{ . }}{{ end }}"
    "{{ range .Messages }}{{ .Content }}{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ end }}"
)


def facts(
    findings: list[dict[str, Any]] | None = None, target: dict[str, Any] | None = None, **source: Any
) -> BundleFacts:
    """A chat model that knows tools and thinks, at temperature 0.7 and top_p 0.9."""
    sampling = [{"name": "temperature", "value": 0.7}, {"name": "top_p", "value": 0.9}]
    known: dict[str, Any] = {"name": "bot", "prompt_path": "go_template", "template": TEMPLATE, "parameters": sampling}
    served = {"served_model_name": ["bot", "bot:latest"], "max_model_len": 4096}
    return BundleFacts.model_validate(
        {"source": known | source, "target": served | (target or {}), "findings": findings or []}
    )


def chat(**body: Any) -> ClientRequest:
    return ClientRequest(CHAT, {"model": "bot", "messages": SAY, "stream": False} | body)


def opts(**options: Any) -> ClientRequest:
    return chat(options=options)


def v1(**body: Any) -> ClientRequest:
    return ClientRequest(V1, {"model": "bot", "messages": SAY, "temperature": 0} | body)


def found(request: ClientRequest, bundle: BundleFacts | None = None) -> set[str]:
    """Ids of the rules that a request shows."""
    assert request.client is not None
    return {m.rule.id for m in matches(request.client, bundle or facts(), [request]) if m.requests}


def of(verdict_list: list[ClientVerdict], client: Client) -> ClientVerdict:
    return next(v for v in verdict_list if v.client == client)


# ---- the table ------------------------------------------------------------------------------------------------------


def test_the_tables_are_whole() -> None:
    for client, rules in RULES.items():
        assert len({rule.id for rule in rules}) == len(rules)
        for rule in rules:
            assert rule.client == client
            assert (rule.severity == "fine") == (rule.change == ""), rule.id
            for text in (rule.field, rule.ollama, rule.vllm, rule.source):
                assert text, rule.id
                assert not text.removesuffix("...").endswith("."), rule.id
            assert re.search(r"Ollama \w+/|vLLM 0\.32", rule.source), rule.id
            assert rule.sends is not None or not rule.rare, f"{rule.id}: rare, and nothing shows it"


def test_what_is_marked_tested_is_tested_against_a_real_vllm() -> None:
    shown = {name for case in CASES for name in case.rules} | set(IN_HEADERS)
    known = {f"{client}/{rule.id}" for client, rules in RULES.items() for rule in rules}
    for client, rules in RULES.items():
        for rule in rules:
            by = {f"{client}/{rule.id}", f"*/{rule.id}"} & shown
            assert bool(by) == ("tested" in rule.source), f"{client}/{rule.id}"
    for name in shown:
        assert name in known or {name.replace("*", client) for client in RULES} & known, name


def test_the_page_is_up_to_date() -> None:
    written = (REPO / "docs" / "clients.md").read_text(encoding="utf-8")
    assert written == page(), "run `make docs`"


def test_every_row_of_the_page_has_six_cells() -> None:
    rows = [line for line in page().splitlines() if line.startswith("| ")]
    assert len(rows) == sum(len(rules) for rules in RULES.values()) + 2
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {7}


# ---- what a request shows -------------------------------------------------------------------------------------------

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def history(call: Any) -> list[dict[str, Any]]:
    return [*SAY, {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "1"}]


EXAMPLES: tuple[tuple[ClientRequest, set[str]], ...] = (
    # native: a request without more shows its path; `stream: false` is in all but the first
    (ClientRequest(CHAT, {"model": "bot:latest", "messages": SAY}), {"ndjson", "stream"}),
    (chat(stream=True), {"ndjson"}),
    (chat(), set()),
    (opts(temperature=0.5, top_k=0, seed=-1), {"options"}),
    (opts(seed=0), {"options", "seed"}),
    (opts(num_predict=100), {"options", "num-predict"}),
    (opts(num_predict=-1), {"options", "num-predict-unlimited"}),
    (opts(num_predict=0), {"options", "num-predict-unlimited"}),
    (opts(num_predict=5000), {"options", "num-predict", "max-tokens-large"}),
    (opts(num_ctx=8192), {"options", "num-ctx"}),
    (opts(repeat_penalty=1.1), {"options", "repeat-penalty"}),
    (opts(repeat_penalty=1.0), {"options"}),
    (opts(typical_p=0.5, mirostat=2), {"options", "no-counterpart"}),
    (opts(num_gpu=0, num_thread=4), {"options", "load-options"}),
    (opts(temperature=2.5), {"options", "temperature"}),
    (opts(temperature=-1), {"options", "temperature"}),
    (opts(top_p=0), {"options", "top-p"}),
    (opts(top_p=1.5), {"options", "top-p"}),
    (opts(top_k=-2), {"options", "top-k"}),
    (opts(min_p=1.5), {"options", "top-k"}),
    (opts(presence_penalty=0.5), {"options", "penalties"}),
    (opts(frequency_penalty=-3), {"options", "penalties", "penalties-range"}),
    (opts(stop=list("abcdefghijklmnop")), {"options"}),
    (opts(stop=list("abcdefghijklmnopq")), {"options", "stop-many"}),
    (opts(stop=[""]), {"options", "stop-empty"}),
    (chat(keep_alive=0), {"keep-alive"}),
    (chat(format="json"), {"format-json"}),
    (chat(format={"type": "object"}), {"format-schema"}),
    (chat(think=False), {"think"}),
    (chat(messages=[*SAY, {"role": "assistant", "content": "x", "thinking": "hm"}, *SAY]), {"thinking-history"}),
    (chat(messages=[{"role": "user", "content": "x", "images": ["aGk="]}]), {"images"}),
    (chat(tools=[TOOL]), {"tool-arguments"}),
    (chat(tools=[]), {"tools-empty"}),
    (chat(messages=history(CALL)), set()),
    (chat(messages=history({"function": {"name": "f", "arguments": {}}})), {"tool-history"}),
    (chat(messages=history(CALL | {"function": {"name": "f", "arguments": {"a": 1}}})), {"tool-history"}),
    (chat(messages=[*history(CALL)[:2], {"role": "tool", "content": "1", "tool_name": "f"}]), {"tool-name"}),
    (chat(messages=[*SAY, {"role": "assistant", "content": "2, 3,"}]), {"prefill"}),
    (chat(truncate=False), {"truncate"}),
    (chat(logprobs=True, top_logprobs=3), {"logprobs"}),
    (chat(top_logprobs=3), {"top-logprobs"}),
    (chat(_debug_render_only=True), {"debug-render"}),
    (chat(model="BOT"), {"model"}),
    (chat(messages=[], keep_alive=0), {"load", "keep-alive"}),
    (ClientRequest("/api/tags"), {"management"}),
    (ClientRequest("/api/blobs/sha256:1"), {"management"}),
    (ClientRequest("/api/embed", {"model": "bot", "input": "x"}), {"not-embeddings"}),
    # the OpenAI route
    (v1(), set()),
    (v1(temperature=None), {"defaults"}),
    (v1(temperature=0.2), {"defaults"}),
    (v1(temperature=0.2, top_p=0.5), set()),
    (v1(max_completion_tokens=5), {"completion-tokens"}),
    (v1(max_tokens=0), {"max-tokens-small"}),
    (v1(max_tokens=-1, max_completion_tokens=9), {"completion-tokens"}),
    (v1(max_tokens=4096), set()),
    (v1(max_tokens=4097), {"max-tokens-large"}),
    (v1(max_completion_tokens=4097), {"completion-tokens", "max-tokens-large"}),
    (v1(top_k=40), {"sampling"}),
    (v1(top_k=-2, chat_template_kwargs={"enable_thinking": False}), {"sampling", "top-k"}),
    (v1(n=1), set()),
    (v1(n=2), {"n"}),
    (v1(logit_bias={"1": 5}), {"logit-bias"}),
    (v1(tools=[TOOL], tool_choice="auto"), set()),
    (v1(tools=[TOOL], tool_choice="required"), {"tool-choice"}),
    (v1(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "f"}}), {"tool-choice"}),
    (v1(tool_choice="auto"), {"tool-choice-alone"}),
    (v1(tool_choice="none"), set()),
    (v1(tools=[TOOL], parallel_tool_calls=False), {"parallel-tool-calls"}),
    (v1(tools=[]), {"tools-empty"}),
    (v1(messages=history(CALL)), set()),
    (v1(messages=history({"id": "c1", "function": {"name": "f", "arguments": "{}"}})), {"tool-history"}),
    (v1(response_format={"type": "json_object"}), {"response-format"}),
    (v1(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}), {"response-format"}),
    (v1(response_format={"type": "json_schema", "json_schema": {"schema": {}}}), {"response-format", "schema-name"}),
    (v1(stream=True, stream_options={"include_usage": True}), set()),
    (v1(stream_options={"include_usage": True}), {"stream-options"}),
    (v1(reasoning_effort="low"), set()),
    (v1(reasoning_effort="ultra"), {"effort-unknown"}),
    (v1(reasoning={"effort": "low"}), {"reasoning-object"}),
    (v1(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}]}]), set()),
    (v1(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}] * 2}]), {"content-parts"}),
    (v1(messages=[{"role": "user", "content": [{"type": "text"}, {"type": "image_url"}]}]), {"images"}),
    (v1(stop="x"), set()),
    (v1(stop=list("abcdefghijklmnopq")), {"stop-many"}),
    (v1(stop=""), {"stop-empty"}),
    (v1(seed=7), {"seed"}),
    (v1(temperature=3, top_p=0.5), {"temperature"}),
    (v1(temperature=1, top_p=0), {"top-p"}),
    (v1(presence_penalty=5), {"penalties", "penalties-range"}),
    (v1(options={"num_ctx": 8192}, format="json", keep_alive="5m"), {"ollamas-fields"}),
    (v1(user="x"), {"user"}),
    (v1(top_logprobs=5), {"top-logprobs"}),
    (v1(messages=[*SAY, {"role": "assistant", "content": "2, 3,"}]), {"prefill"}),
    (v1(model="registry.ollama.ai/library/bot:latest"), {"model"}),
    (ClientRequest("/v1/models/bot"), {"one-model"}),
    (ClientRequest("/v1/models"), set()),
    (ClientRequest("/v1/embeddings", {"input": "x"}), {"not-embeddings"}),
    (ClientRequest("/v1/audio/transcriptions"), {"audio"}),
    (ClientRequest("/v1/responses", {"input": "x"}), {"defaults", "other-routes"}),
    (ClientRequest("/v1/messages", {"messages": SAY, "max_tokens": 9}), {"other-routes"}),
    (ClientRequest(COMPLETIONS, {"prompt": "x", "temperature": 0}), {"completions"}),
    (ClientRequest(COMPLETIONS, {"prompt": "x", "suffix": "y", "temperature": 0}), {"completions", "suffix"}),
)  # fmt: skip
GENERATES: tuple[tuple[dict[str, Any], set[str]], ...] = (
    ({}, {"generate"}),
    ({"raw": True}, {"raw"}),
    ({"suffix": "y"}, {"suffix"}),
    ({"system": "Be brief."}, {"generate", "system"}),
    ({"template": "{{ .Prompt }}"}, {"generate", "template"}),
    ({"context": [1, 2]}, {"generate", "context"}),
    ({"images": ["aGk="]}, {"generate", "images"}),
    ({"prompt": "", "keep_alive": 0}, {"generate", "load", "keep-alive"}),
)


@pytest.mark.parametrize(("request_", "wanted"), EXAMPLES, ids=lambda value: str(getattr(value, "body", ""))[:60])
def test_what_a_request_shows(request_: ClientRequest, wanted: set[str]) -> None:
    assert found(request_) - ({"chat"} if request_.path == CHAT else set()) == wanted


@pytest.mark.parametrize(("body", "wanted"), GENERATES)
def test_what_a_request_to_generate_shows(body: dict[str, Any], wanted: set[str]) -> None:
    assert found(ClientRequest(GENERATE, {"model": "bot", "prompt": "x", "stream": False} | body)) == wanted


def test_an_embedding_model() -> None:
    bundle = facts(architecture="nomic-bert", template=None)
    assert found(ClientRequest("/api/embed", {"input": "x"}), bundle) == {"embed"}
    assert found(ClientRequest("/api/embeddings", {"prompt": "x"}), bundle) == {"embeddings"}
    assert found(ClientRequest("/v1/embeddings", {"input": "x", "dimensions": 64}), bundle) == {
        "embeddings",
        "dimensions",
    }
    told = of(verdicts(bundle, result=Verdict.PASS), "native").changes
    assert any("POST /v1/embeddings" in line for line in told)
    assert not any("/v1/chat/completions" in line for line in told)
    named = facts([{"item": "embedding", "target": "/v1/embeddings, /pooling"}], architecture="qwen3")
    assert found(ClientRequest("/api/embed", {"input": "x"}), named) == {"embed"}


def test_every_rule_that_looks_at_requests_is_shown_by_one() -> None:
    shown = {(r.client, rule) for r, _ in EXAMPLES for rule in found(r)}
    shown |= {("native", rule) for body, _ in GENERATES
              for rule in found(ClientRequest(GENERATE, {"prompt": "x"} | body))}  # fmt: skip
    shown |= {("native", "embed"), ("native", "embeddings"), ("native", "dimensions"), ("openai", "embeddings"),
              ("openai", "dimensions")}  # fmt: skip
    openai = facts(target={"client": "openai"})
    shown |= {("native", rule) for rule in found(chat(), openai)}
    shown |= {("openai", rule) for rule in found(ClientRequest("/v1/messages", {"messages": SAY}), openai)}
    without = facts([{"item": "tools", "status": "dropped", "target": ""}])
    shown |= {(r.client, rule) for r in (chat(tools=[TOOL]), v1(tools=[TOOL])) for rule in found(r, without)}
    wanted = {(client, rule.id) for client, rules in RULES.items() for rule in rules if rule.sends is not None}
    assert wanted - shown == set()


@pytest.mark.parametrize(
    ("endpoint", "path", "client"),
    [
        ("/api/chat", "/api/chat", "native"),
        ("http://host:11434/api/chat/?x=1#y", "/api/chat", "native"),
        ("/ollama/v1/chat/completions", "/v1/chat/completions", "openai"),
        ("http://api/v1/models", "/v1/models", "openai"),
        ("http://v1", "", None),
        ("/api/chat?next=/v1/models", "/api/chat", "native"),
        ("/api/v1/chat/completions", "/v1/chat/completions", "openai"),
        ("/v1/", "/v1", None),
        ("/api", "/api", None),
        ("/apiary/chat", "", None),
        ("/", "", None),
        ("", "", None),
    ],
)
def test_paths(endpoint: str, path: str, client: Client | None) -> None:
    request = ClientRequest(endpoint)
    assert (request.path, request.client) == (path, client)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["json", "text"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
FIELDS = (
    "model", "messages", "options", "format", "stop", "temperature", "top_p", "top_k", "tools", "tool_choice", "think",
    "response_format", "max_tokens", "n", "reasoning_effort", "prompt", "images", "stream", "logprobs", "top_logprobs",
)  # fmt: skip
MESSAGE = st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "images", "thinking"]), JSON, max_size=4)
BODY = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(FIELDS, JSON) | {"messages": st.lists(MESSAGE | JSON, max_size=3),
                                            "options": st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4)},
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([CHAT, GENERATE, V1, COMPLETIONS, "/v1/embeddings", "/x"]), BODY), max_size=3)
)
def test_any_body_is_read(drawn: list[tuple[str, dict[str, Any]]]) -> None:
    for verdict in verdicts(facts(), [ClientRequest(*one) for one in drawn], result=Verdict.PASS):
        assert verdict.statement


def test_numbers_of_any_size() -> None:
    huge = 10**400
    request = opts(num_ctx=huge, num_predict=huge, temperature=-huge)
    told = of(verdicts(facts(), [request], result=Verdict.PASS), "native")
    assert any("temperature below 0" in line for line in told.changes)
    assert max(map(len, told.changes)) < 400


# ---- the verdicts ---------------------------------------------------------------------------------------------------


def test_a_result_that_is_no_pass_holds_for_nobody() -> None:
    for result, word in ((Verdict.FAIL, "failed"), (Verdict.INCONCLUSIVE, "inconclusive")):
        both = verdicts(facts(), [chat(), v1()], result=result)
        assert [v.client for v in both] == ["native", "openai"]
        assert not any(v.holds for v in both)
        assert all(word in v.statement for v in both)
        assert all(v.changes for v in both), "what must change is known all the same"


def test_it_holds_for_those_the_bundle_was_made_for() -> None:
    native, openai = verdicts(facts(), result=Verdict.PASS)
    assert native.holds
    assert native.statement.startswith("The result holds for native clients (/api) once their code speaks vLLM's API")
    assert not openai.holds
    assert "temperature 1 and top_p 1 on Ollama and get temperature 0.7 and top_p 0.9" in openai.statement
    assert "--client openai" in openai.statement

    native, openai = verdicts(facts(target={"client": "openai"}), result=Verdict.PASS)
    assert not native.holds
    assert "temperature 0.7 and top_p 0.9 on Ollama and get temperature 1 and top_p 1" in native.statement
    assert "--client native" in native.statement
    assert openai.holds


def test_it_holds_for_both_where_the_defaults_are_the_same() -> None:
    neutral = facts(parameters=[{"name": "temperature", "value": 1}, {"name": "top_p", "value": 1.0}])
    assert all(v.holds for v in verdicts(neutral, result=Verdict.PASS))


def test_without_parameters_the_defaults_are_ollamas() -> None:
    openai = of(verdicts(facts(parameters=[]), result=Verdict.PASS), "openai")
    assert "get temperature 0.8 and top_p 0.9" in openai.statement


@pytest.mark.parametrize(
    ("body", "holds"),
    [
        ({"temperature": 0}, True),
        ({"temperature": 0.2, "top_p": 1}, True),
        ({"temperature": 0.2}, False),
        ({"top_p": 0.5}, False),
        ({"temperature": False}, False),
    ],
)
def test_requests_that_name_their_sampling_do_not_depend_on_defaults(body: dict[str, Any], holds: bool) -> None:
    request = ClientRequest(V1, {"messages": SAY} | body)
    verdict = of(verdicts(facts(), [request, v1(), chat()], result=Verdict.PASS), "openai")
    assert verdict.holds is holds
    assert ("(1 of 2)" in verdict.statement) is not holds


def test_the_anthropic_route_kept_the_modelfiles_values() -> None:
    request = ClientRequest("/v1/messages", {"messages": SAY, "max_tokens": 8})
    assert of(verdicts(facts(), [request], result=Verdict.PASS), "openai").holds
    assert not of(verdicts(facts(target={"client": "openai"}), [request], result=Verdict.PASS), "openai").holds


def test_changes_are_counted_and_the_worst_come_first() -> None:
    requests = [chat(format="json")] * 12 + [chat(options={"num_ctx": n}) for n in (8192, 16384)] + [chat()] * 86
    changes = of(verdicts(facts(), requests, result=Verdict.PASS), "native").changes
    assert changes[0] == (
        "POST /api/chat in 100 of 100 requests: vLLM has no such path (404). To do: POST /v1/chat/completions with the "
        "same model and messages."
    )
    assert (
        'format "json" in 12 of 100 requests: vLLM ignores it: the answer is free. To do: send response_format '
        '{"type": "json_object"}.'
    ) in changes
    assert any("num_ctx in 2 of 100 requests (up to 16384, the server has 4096)" in line for line in changes)
    assert changes.index(next(c for c in changes if "Content-Type" in c)) < changes.index(
        next(c for c in changes if c.startswith("format"))
    )
    assert not any(line.startswith("tool") for line in changes), "none of them has tools"


def test_without_requests_the_usual_is_told() -> None:
    native, openai = verdicts(facts(), result=Verdict.PASS)
    assert any(line.startswith("options: vLLM ignores the whole object") for line in native.changes)
    assert any(line.startswith("max_completion_tokens: vLLM obeys it") for line in openai.changes)
    told = "\n".join(native.changes + openai.changes)
    assert "top_p 0 or less" not in told, "rare"
    assert "seed" not in "".join(line.split(":")[0] for line in openai.changes), "fine"


def test_a_model_without_tools_or_thoughts_hears_nothing_of_them() -> None:
    plain = facts(template="{{ range .Messages }}{{ .Content }}{{ end }}")
    told = [line.split(": vLLM")[0] for v in verdicts(plain, result=Verdict.PASS) for line in v.changes]
    assert not [name for name in told if "tool" in name or "think" in name]


def test_no_request_of_that_kind() -> None:
    native, openai = verdicts(facts(), [chat(), chat()], result=Verdict.PASS)
    assert native.changes
    assert openai.changes == []
    assert openai.statement.endswith("None of the 2 requests that were read came to /v1.")
    assert len(verdicts(facts(), [], result=Verdict.PASS)[0].statement) > 0


def test_requests_that_parity_does_not_compare_are_named() -> None:
    image = chat(messages=[{"role": "user", "content": "x", "images": ["aGk="]}])
    raw = ClientRequest(GENERATE, {"prompt": "x", "raw": True, "images": ["aGk="]})
    statement = of(verdicts(facts(), [image, raw, chat()], result=Verdict.PASS), "native").statement
    assert "It says nothing of 2 of the 3 requests, which parity does not compare (images: 2, raw: 1)." in statement
    assert "says nothing" not in of(verdicts(facts(), [chat()], result=Verdict.PASS), "native").statement


def test_the_stop_limit_is_the_bundles() -> None:
    own = [{"item": "PARAMETER stop", "target": "request default (middleware)"}]
    assert (stop_limit(facts()), stop_limit(facts(own * 16)), stop_limit(facts(own * 20))) == (16, 16, 20)
    assert "stop-many" not in found(v1(stop=list("abcdefghijklmnopq")), facts(own * 20))


def test_a_bundle_without_a_tool_parser() -> None:
    without = facts([{"item": "tools", "status": "dropped", "target": ""}])
    assert "tools-parser" in found(chat(tools=[TOOL]), without)
    having = facts([{"item": "tools", "status": "approximate", "target": "tool-call-parser hermes"}])
    assert "tools-parser" not in found(chat(tools=[TOOL]), having)


def test_requests_for_other_models_are_left_out() -> None:
    requests = [chat(), chat(model="BOT"), chat(model="library/bot:latest"), *[chat(model="other", format="json")] * 5]
    native = of(verdicts(facts(), requests, result=Verdict.PASS), "native")
    assert native.statement.endswith("Left out: 5 requests for other models.")
    assert not any("json" in line.split(":")[0] for line in native.changes)
    assert "model in 2 of 3 requests (BOT, library/bot:latest; served: bot, bot:latest)" in "\n".join(native.changes)
    nobody = of(verdicts(facts(), requests[3:], result=Verdict.PASS), "native")
    assert nobody.statement.endswith("None of the 5 requests to /api was for this model.")
    assert nobody.holds
    assert nobody.changes == []


def test_details_are_short() -> None:
    requests = [chat(model=f"model-{n}" * 50) for n in range(200)]
    match = next(m for m in matches("native", facts(), requests) if m.rule.id == "model")
    line = describe(match, facts(), 200)
    assert "in 200 of 200 requests (model-0" in line
    assert "...; served: bot, bot:latest)" in line
    assert len(line) < 500


def test_real_requests(shared: Path) -> None:
    """What was sent to a real Ollama, of every kind."""
    lines = (shared / "ollama" / "recordings.jsonl").read_text(encoding="utf-8").strip().split("\n")
    rows = [json.loads(line)["request"] for line in lines]
    bodies = [row["body"] if isinstance(row["body"], dict) else {} for row in rows]
    requests = [ClientRequest(row["path"], body) for row, body in zip(rows, bodies, strict=True)]
    bot = facts(name="support-bot:latest", target={"served_model_name": ["support-bot", "support-bot:latest"]})
    native, openai = verdicts(bot, requests, result=Verdict.PASS)
    names = ("support-bot", "support-bot:latest", "", None)
    total = {c: sum(r.client == c and r.body.get("model") in names for r in requests) for c in RULES}
    assert total["native"] > 50
    assert "requests for other models" in native.statement
    assert f"raw in 1 of {total['native']} requests" in "\n".join(native.changes)
    assert f"POST /v1/completions in 1 of {total['openai']} requests" in "\n".join(openai.changes)
    assert not openai.holds
