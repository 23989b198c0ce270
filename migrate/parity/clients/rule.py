"""What a rule is, and the questions that rules ask a request. Requests come from outside: no shape is trusted."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from migrate.ollama import capabilities, options
from migrate.parity.facts import BundleFacts
from migrate.vllm import versions

Client = Literal["native", "openai"]
Severity = Literal["breaks", "silent", "fine"]
"""breaks: an error (400, 404) or an answer the client cannot read; silent: ignored, or another meaning; fine: same."""

Test = Callable[["ClientRequest", BundleFacts], bool]
Detail = Callable[[Sequence["ClientRequest"], BundleFacts], str]

_HOST = re.compile(r"[a-zA-Z]+://[^/?#]*")
_PATH = re.compile(r".*(/(?:api|v1)(?:/.*)?)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """A request as a client sent it to Ollama: its path ("/api/chat", also inside a URL) and its JSON body."""

    endpoint: str
    body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """From /api or /v1 on, without query and closing slash; "" for anything else."""
        return _path(self.endpoint)

    @property
    def client(self) -> Client | None:
        if self.path.startswith("/api/"):
            return "native"
        return "openai" if self.path.startswith("/v1/") else None

    @property
    def is_chat(self) -> bool:
        """Asks for an answer of the model, in any of its forms."""
        return self.path in CHAT_PATHS

    @property
    def is_embedding(self) -> bool:
        return self.path in EMBEDDING_PATHS

    @property
    def messages(self) -> list[Mapping[str, Any]]:
        found = self.body.get("messages")
        return [m for m in found if isinstance(m, Mapping)] if isinstance(found, list) else []

    @property
    def options(self) -> Mapping[str, Any]:
        found = self.body.get("options")
        return found if isinstance(found, Mapping) else {}

    def get(self, name: str) -> Any:
        """A sampling field: native clients send it in `options`, the others beside the messages."""
        return (self.options if self.client == "native" else self.body).get(name)


@lru_cache(maxsize=1024)
def _path(endpoint: str) -> str:
    found = _PATH.fullmatch(re.split("[?#]", _HOST.sub("", endpoint, count=1), maxsplit=1)[0])
    return found[1].rstrip("/") if found else ""


CHAT_PATHS = ("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
EMBEDDING_PATHS = ("/api/embed", "/api/embeddings", "/v1/embeddings")


def everyone(facts: BundleFacts) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of one thing that clients do.

    `ollama` and `vllm` are what each does with it, as the rest of a sentence that begins with its name; `change` is
    what the client's code has to do, "" for nothing; `source` is where the fact is from. `sends` finds it in a request;
    None: no request shows it, and it concerns every client of that world. `concerns` leaves out models that it cannot
    touch. `compared` False: parity does not compare such requests, so its result says nothing of them. `rare`: told
    only when a request shows it. `detail` tells more of the requests that were found.
    """

    id: str
    client: Client
    field: str
    ollama: str
    vllm: str
    change: str
    severity: Severity
    source: str
    sends: Test | None = None
    concerns: Callable[[BundleFacts], bool] = everyone
    compared: bool = True
    rare: bool = False
    detail: Detail | None = None


# ---- what a bundle says ---------------------------------------------------------------------------------------------


def stop_limit(facts: BundleFacts) -> int:
    """Longest `stop` list that the bundle's server takes: its own plain stop strings raise it (mapping.migration)."""
    own = sum(f.get("item") == "PARAMETER stop" and f.get("target") == "request default (middleware)"
              for f in facts.findings)  # fmt: skip
    return max(versions.MAX_STOP_STRINGS, int(own))


def calls_tools(facts: BundleFacts) -> bool:
    return facts.source.has_tools


def lacks_tool_parser(facts: BundleFacts) -> bool:
    """The model knows tools, and the bundle was written without a parser for its calls."""
    found = [f for f in facts.findings if f.get("item") in ("tools", "PARSER")]
    return calls_tools(facts) and bool(found) and not any("tool" in str(f.get("target")) for f in found)


def thinks(facts: BundleFacts) -> bool:
    """Ollama counts the model among those that think, so that `think` is on unless a client says otherwise.

    A bundle with findings has one for it (mapping.prompt).
    """
    if facts.findings:
        return any(f.get("item") == "think" for f in facts.findings)
    source = facts.source
    if source.prompt_path == "gguf_jinja":
        return all(tag in (source.chat_template or "") for tag in ("<think>", "</think>"))
    return source.prompt_path == "renderer" or _thinks(source.template or "")


@lru_cache(maxsize=16)
def _thinks(template: str) -> bool:
    return "thinking" in capabilities.of_go(template)


def embeds(facts: BundleFacts) -> bool:
    """An embedding model: mapping writes a finding of that name for it, and these architectures can do nothing else."""
    named = any(f.get("item") == "embedding" and f.get("target") for f in facts.findings)
    return named or facts.source.architecture in ("bert", "nomic-bert")


def answers(facts: BundleFacts) -> bool:
    return not embeds(facts)


def default_of(facts: BundleFacts, name: str, client: Client) -> float:
    """temperature or top_p of a request that names none, as Ollama had it for that kind of client."""
    if client == "openai":
        return 1.0
    for parameter in facts.source.parameters:
        value = parameter.get("value")
        if parameter.get("name") == name and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return float(options.default(name))


def defaults_differ(facts: BundleFacts) -> bool:
    """The two worlds were sampled differently when a request named neither temperature nor top_p."""
    return any(default_of(facts, name, "native") != 1.0 for name in ("temperature", "top_p"))


def asks_for_defaults(request: ClientRequest, facts: BundleFacts) -> bool:
    """Leaves to the server what the bundle has for the other kind of client.

    /v1/messages keeps the Modelfile's values, unlike the other /v1 routes (ollama.md section 7.4).
    """
    if not request.is_chat:
        return False
    world: Client = "openai" if request.client == "openai" and request.path != "/v1/messages" else "native"
    if world == facts.target.client:
        return False
    temperature = request.get("temperature")
    if temperature == 0 and not isinstance(temperature, bool):
        return False
    missing = [name for name in ("temperature", "top_p") if request.get(name) is None]
    return any(default_of(facts, name, "native") != 1.0 for name in missing)


# ---- what a request says --------------------------------------------------------------------------------------------


def number(value: Any) -> float | int | None:
    """The number itself, so that one of a thousand digits is compared and never converted."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def at(*paths: str) -> Test:
    return lambda request, facts: request.path in paths


def field_set(*names: str) -> Test:
    """One of the fields beside the messages is there, and neither null nor empty nor false."""
    return lambda request, facts: any(request.body.get(name) for name in names)


def field_named(*names: str) -> Test:
    """One of the fields is there and not null."""
    return lambda request, facts: any(request.body.get(name) is not None for name in names)


def option_named(names: Collection[str]) -> Test:
    return lambda request, facts: any(name in names for name in request.options)


def outside(name: str, low: float, high: float) -> Test:
    """The number `name` is below `low` or above `high`."""

    def test(request: ClientRequest, facts: BundleFacts) -> bool:
        value = number(request.get(name))
        return value is not None and not low <= value <= high

    return test


def either(*tests: Test) -> Test:
    return lambda request, facts: any(test(request, facts) for test in tests)


def chats(test: Test) -> Test:
    return lambda request, facts: request.is_chat and test(request, facts)


def stops(request: ClientRequest) -> list[Any]:
    found = request.get("stop")
    return found if isinstance(found, list) else [] if found is None else [found]


def too_many_stops(request: ClientRequest, facts: BundleFacts) -> bool:
    return len(stops(request)) > stop_limit(facts)


def empty_stop(request: ClientRequest, facts: BundleFacts) -> bool:
    return "" in stops(request)


def _bare(name: str) -> str:
    """A name as Ollama compares it: without the parts it fills in itself, in lower case (types/model/name.go)."""
    bare = name.lower().removeprefix("registry.ollama.ai/").removeprefix("library/")
    return bare.removesuffix(":latest")


def for_this_model(request: ClientRequest, facts: BundleFacts) -> bool:
    """Ollama would have answered it with the bundle's model; so it is taken where no name tells."""
    name = request.body.get("model")
    known = {_bare(served) for served in (*facts.target.served_model_name, facts.source.name)}
    return not isinstance(name, str) or not name or _bare(name) in known


def misnamed(request: ClientRequest, facts: BundleFacts) -> bool:
    """It names this model as Ollama takes it, and vLLM does not."""
    name = request.body.get("model")
    served = facts.target.served_model_name
    return bool(served) and isinstance(name, str) and bool(name) and name not in served


def ends_with_answer(request: ClientRequest, facts: BundleFacts) -> bool:
    """The last message is the assistant's: the answer is begun and shall go on."""
    messages = request.messages
    return bool(messages) and messages[-1].get("role") == "assistant" and bool(messages[-1].get("content"))


def tool_calls(request: ClientRequest) -> list[Any]:
    """All calls in the history."""
    lists = [m.get("tool_calls") for m in request.messages]
    return [call for calls in lists if isinstance(calls, list) for call in calls]


def loose_tool_call(request: ClientRequest, facts: BundleFacts) -> bool:
    """A call in the history that is not OpenAI's form: id, type and arguments as a JSON text."""
    for call in tool_calls(request):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
            return True
        if not call.get("id") or call.get("type") != "function":
            return True
    return False


def parts(request: ClientRequest) -> list[list[Any]]:
    """Contents that are lists of parts."""
    return [content for m in request.messages if isinstance(content := m.get("content"), list)]


def largest(name: str) -> Detail:
    """ "up to 8192" """

    def detail(requests: Sequence[ClientRequest], facts: BundleFacts) -> str:
        values = [v for r in requests if (v := number(r.get(name))) is not None]
        return f"up to {max(values)}" if values and max(values) < 1e18 else ""

    return detail


def context_and_largest(name: str) -> Detail:
    def detail(requests: Sequence[ClientRequest], facts: BundleFacts) -> str:
        asked = largest(name)(requests, facts)
        return ", ".join(part for part in (asked, f"the server has {facts.target.max_model_len}") if part)

    return detail


def names_asked(requests: Sequence[ClientRequest], facts: BundleFacts) -> str:
    names = sorted({str(r.body.get("model"))[:60] for r in requests})
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{shown}; served: {', '.join(facts.target.served_model_name)}"


def longest_stop(requests: Sequence[ClientRequest], facts: BundleFacts) -> str:
    return f"up to {max(len(stops(r)) for r in requests)}; the server takes {stop_limit(facts)}"
