"""Where Ollama itself, in some of its versions, does what nobody asked of it: shown in a report, never a failure.

The facts are `ollama.md`'s (sections 0, 3, 4, 5, 11), read at Ollama 0.33. What the gate does about each:

* recognised: both texts are made again, and only when they are exactly that is the difference let pass (`prompts`);
* neutralised: both sides are asked so that it cannot show;
* outside: the conversations of a comparison do not reach it, users may;
* explains: the gate does not look past it: a failure of that layer may be this and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from migrate.errors import BadInput, TemplateError
from migrate.mapping.parameters import PLUGIN
from migrate.ollama import options
from migrate.ollama.template import parse_template, render_chat
from migrate.parity.clients.rule import answers, embeds, thinks
from migrate.parity.facts import BundleFacts
from migrate.parity.report import LayerName

Treatment = Literal["recognised", "neutralised", "outside", "explains"]


@dataclass(frozen=True, slots=True)
class Deviation:
    """`since` is the first version that has it, `before` the first that no longer has it; None: no such end.

    `sentence` is what a report shows; `concerns` says whether it can touch a model. `source` is where the fact is from.
    """

    id: str
    layers: tuple[LayerName, ...]
    treatment: Treatment
    sentence: str
    source: str
    since: str | None = None
    before: str | None = None
    concerns: Callable[[BundleFacts], bool] = lambda facts: True

    def in_version(self, version: str | None) -> bool:
        """A version that cannot be read ("", "main") counts as the newest one known."""
        number = options.resolve(version)
        return (self.since is None or options.resolve(self.since) <= number) and (
            self.before is None or number < options.resolve(self.before)
        )

    @property
    def versions(self) -> str:
        """The range in words."""
        if self.since and self.before:
            return f"{self.since} up to {self.before}"
        return f"since {self.since}" if self.since else f"before {self.before}" if self.before else "all"


# ---- which models ---------------------------------------------------------------------------------------------------

OLD_ENGINE = frozenset(
    ("deepseek2", "deepseekocr", "gemma3", "gemma3n", "gemma4", "gptoss", "gpt-oss", "llama4", "mistral3", "mllama",
     "nemotron_h", "nemotron_h_moe", "nemotron_h_omni", "olmo3", "qwen25vl", "qwen3", "qwen3moe", "qwen35", "qwen35moe",
     "qwen3next", "qwen3vl", "qwen3vlmoe", "glm4moelite", "glmocr", "lfm2", "lfm2moe", "laguna")
)  # fmt: skip
"""Architectures that ran on Ollama's own engine before 0.30 (fs/ggml/ggml.go, OllamaEngineRequired)."""

_TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "d",
        "parameters": {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}},
    },
}
_TALK = (
    {"role": "user", "content": "x"},
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": "b"}}}]},
    {"role": "tool", "content": "y", "tool_name": "f"},
    {"role": "user", "content": "z"},
)


def _prints_struct(facts: BundleFacts) -> bool:
    """The template prints `{{ .Function }}`: it says one thing as Go's struct and another as JSON."""
    live = facts.source.prompt_path in ("go_template", "parser")
    return live and _differs(facts.source.template or "")


@lru_cache(maxsize=16)
def _differs(template: str) -> bool:
    try:
        tree = parse_template(template)
        texts = [render_chat(tree, _TALK, tools=(_TOOL,), json_tools=as_json) for as_json in (False, True)]
    except (TemplateError, BadInput):
        return ".Function }}" in template
    return texts[0] != texts[1]


def _renderer(*names: str) -> Callable[[BundleFacts], bool]:
    """The live renderer is one of these (a finding of the bundle names it)."""

    def test(facts: BundleFacts) -> bool:
        live = facts.source.prompt_path == "renderer"
        return live and any(f.get("item") == "RENDERER" and f.get("source") in names for f in facts.findings)

    return test


_sorts_keys = _renderer("qwen3-coder")
_FIXED_KEYS = ("name", "type", "description")
_KEY_LINE = re.compile(r"<([A-Za-z$]+)>.*</\1>")


def settle_order(facts: BundleFacts, prompt: str) -> str:
    """The prompt with the further keys of a tool's schema sorted, where Ollama prints them in a random order.

    Both sides are settled before they are compared; for other models the text is what it was. Only runs of whole lines
    `<key>JSON</key>` between `<tools>` and `</tools>` are touched, as the renderer writes them.
    """
    start, end = prompt.find("\n<tools>\n"), prompt.find("\n</tools>\n")
    if not 0 <= start < end or not _sorts_keys(facts):
        return prompt
    lines: list[str] = []
    run: list[str] = []
    for line in prompt[start:end].split("\n"):
        found = _KEY_LINE.fullmatch(line)
        if found and found[1] not in _FIXED_KEYS:
            run.append(line)
            continue
        lines += [*sorted(run), line]
        run = []
    return prompt[:start] + "\n".join(lines + sorted(run)) + prompt[end:]


def _dates(facts: BundleFacts) -> bool:
    text = facts.source.template or ""
    written = facts.source.prompt_path in ("go_template", "parser") and any(
        name in text for name in ("currentDate", "yesterdayDate")
    )
    return written or _renderer("glimmer")(facts)


def _value(facts: BundleFacts, name: str) -> object:
    return next((p.get("value") for p in facts.source.parameters if p.get("name") == name), None)


def _penalties(facts: BundleFacts) -> bool:
    neutral = {"repeat_penalty": (None, 1), "presence_penalty": (None, 0), "frequency_penalty": (None, 0)}
    off = _value(facts, "repeat_last_n") == 0
    return answers(facts) and not off and any(_value(facts, name) not in values for name, values in neutral.items())


def _default(facts: BundleFacts, name: str) -> bool:
    """Nobody set the parameter, or migration.json does not tell."""
    found = next((p for p in facts.source.parameters if p.get("name") == name), None)
    return found is None or str(found.get("origin", "")).startswith("Ollama default")


def _cut_and_warm(facts: BundleFacts) -> bool:
    """Sampled at a temperature other than 0 and 1, from a set that top_k, top_p or min_p cut."""
    sampling = facts.source.sampling
    cut = sampling.get("top_k", 40) > 0 or sampling.get("top_p", 0.9) < 1 or sampling.get("min_p", 0) > 0
    return answers(facts) and cut and sampling.get("temperature", 0.8) not in (0, 1)


def _native(facts: BundleFacts) -> bool:
    """llama.cpp itself renders the GGUF's own template and reads thoughts and calls out of the answer."""
    return facts.source.prompt_path == "gguf_jinja" and answers(facts)


def _vllm_reads_calls(facts: BundleFacts) -> bool:
    """Ollama searches answers for calls, and the bundle leaves that to a parser of vLLM's, not to its own search."""
    own = any(f.get("item") == "tools" and f.get("target") == "tool_parser.py" for f in facts.findings)
    return facts.source.prompt_path == "go_template" and facts.source.has_tools and not own


P, T, L, X, S, B = (LayerName.PROMPT, LayerName.TOKENS, LayerName.LOGPROBS, LayerName.TEXT, LayerName.SAMPLED,
                    LayerName.BEHAVIOURS)  # fmt: skip

DEVIATIONS: tuple[Deviation, ...] = (
    Deviation("function-struct", (P,), "recognised",
              "Ollama since 0.14 prints {{ .Function }} as a Go struct; the bundle prints JSON, as the template's "
              "author meant and Ollama did before", "ollama.md section 4.7", since="0.14.0", concerns=_prints_struct),
    Deviation("random-keys", (P,), "recognised",
              "Ollama's renderer qwen3-coder prints the further keys of a tool's schema in an order that changes "
              "from request to request; the bundle sorts them", "ollama.md section 5.1", since="0.12.0",
              concerns=_sorts_keys),
    Deviation("escaped-arguments", (P,), "explains",
              "Ollama's renderer escapes non-printable characters in lists of arguments as Go does; the bundle as "
              "JSON does", "docs/prompts.md, Renderers", since="0.12.0",
              concerns=_renderer("nemotron-3-nano", "nemotron-3.5-nano")),
    Deviation("dates", (P,), "explains",
              "the prompt has today's date in it: both servers must run in one time zone, and not over midnight",
              "ollama.md section 4.3; section 11, 21", concerns=_dates),
    Deviation("think-default", (P,), "neutralised",
              "Ollama turns thinking on for this model unless a client says otherwise, and so does the bundle: both "
              "were compared with thinking on", "ollama.md sections 4.2 and 11, 38", since="0.9.0", concerns=thinks),
    Deviation("no-think", (P,), "explains",
              "Ollama before 0.9 knows no thinking: the bundle is made for a newer one, which turns it on",
              "ollama.md section 0", before="0.9.0", concerns=thinks),
    Deviation("own-template", (P,), "explains",
              "Ollama before 0.30 takes the TEMPLATE of this model; the bundle has the GGUF's own template, which "
              "Ollama takes since then", "ollama.md section 4.1", before="0.30.0",
              concerns=lambda facts: _native(facts) and bool(facts.source.template)),
    Deviation("thinking-history", (P,), "explains",
              "Ollama since 0.30 leaves the thoughts of earlier answers out for this model, and so does the bundle",
              "ollama.md section 5.7", since="0.30.0", concerns=lambda facts: _native(facts) and thinks(facts)),
    Deviation("cached-counts", (T,), "explains",
              "Ollama before 0.30 may leave cached tokens out of its count of prompt tokens, which is all it tells "
              "of them", "ollama.md section 11, 50 (inferred)", before="0.30.0", concerns=answers),
    Deviation("no-logprobs", (L,), "explains", "Ollama before 0.12.11 gives no log-probabilities",
              "ollama.md section 0", before="0.12.11", concerns=answers),
    Deviation("penalties", (L, X), "neutralised",
              "both sides were asked without penalties, so that other differences show: Ollama's look at the last 64 "
              "tokens, the prompt's included, vLLM's own at more", "ollama.md section 3.4", concerns=_penalties),
    Deviation("repeat-default", (L, X), "neutralised",
              "Ollama before 0.32.10 has repeat_penalty 1.1 where nobody set it: both sides were asked without it",
              "ollama.md sections 0 and 3.1", before="0.32.10",
              concerns=lambda facts: answers(facts) and _default(facts, "repeat_penalty")),
    Deviation("penalties-sampled", (S,), "explains",
              "the penalties of this model look at the last 64 tokens in Ollama and at everything in vLLM, so "
              "sampled answers may differ", "ollama.md section 3.4",
              concerns=lambda facts: _penalties(facts) and PLUGIN not in facts.files),
    Deviation("penalties-ignored", (S,), "explains", "Ollama before 0.30 ignores all penalties for this architecture",
              "ollama.md section 0", before="0.30.0",
              concerns=lambda facts: facts.source.architecture in OLD_ENGINE and _penalties(facts)),
    Deviation("sampler-order", (S,), "explains",
              "Ollama applies the temperature after top_k, top_p and min_p, vLLM before them: at this temperature "
              "the two keep slightly different sets of tokens", "ollama.md section 3.4; vllm.md section 3.3",
              concerns=_cut_and_warm),
    Deviation("seeds", (S,), "neutralised",
              "the same seed never gives the same text on both servers: distributions are compared, not texts",
              "ollama.md section 11, 37", concerns=answers),
    Deviation("message-truncation", (X,), "outside",
              "Ollama drops the oldest messages of a conversation that is longer than num_ctx without a word; vLLM "
              "answers 400", "ollama.md section 4.8", concerns=answers),
    Deviation("context-shift", (X,), "outside",
              "Ollama goes on past num_ctx by forgetting the middle (all but num_keep tokens at the head), up to ten "
              "times num_ctx; vLLM ends there", "ollama.md section 3.3",
              concerns=lambda facts: answers(facts) and facts.source.architecture != "deepseek2"),
    Deviation("context-default", (X,), "outside",
              "nobody set num_ctx: Ollama since 0.15.5 takes 4096, 32768 or 262144 by the memory of its GPUs, the "
              "bundle has one context for all", "ollama.md section 3.2", since="0.15.5",
              concerns=lambda facts: answers(facts) and _default(facts, "num_ctx")),
    Deviation("repetition-guard", (X,), "explains",
              "Ollama breaks an answer off after 30 pieces that are the same or blank, without a last message; vLLM "
              "goes on", "ollama.md section 3.3", concerns=lambda facts: answers(facts) and not _native(facts)),
    Deviation("structured-thinking", (B,), "explains",
              "Ollama makes two requests of one with a schema when the model thinks; vLLM holds it to the schema "
              "once the thoughts end", "ollama.md section 5.8", concerns=thinks),
    Deviation("late-calls", (B,), "explains",
              "Ollama since 0.30 tells the tool calls of this model at the end of a stream only",
              "ollama.md section 5.7", since="0.30.0",
              concerns=lambda facts: _native(facts) and facts.source.has_tools),
    Deviation("one-call", (B,), "explains", "Ollama reads one tool call at most out of an answer of gpt-oss",
              "ollama.md section 5.4", concerns=lambda facts: facts.source.architecture in ("gptoss", "gpt-oss")),
    Deviation("loose-calls", (B,), "explains",
              "Ollama finds tool calls by a tool's name and JSON near it, also in sloppy answers; vLLM's parsers "
              "want the model's own syntax", "ollama.md section 5.6",
              concerns=_vllm_reads_calls),
    Deviation("raw-vectors", (LayerName.EMBEDDINGS,), "neutralised",
              "Ollama's old /api/embeddings does not normalise the vectors of this architecture: /api/embed was "
              "compared", "ollama.md section 6.3",
              concerns=lambda facts: facts.source.architecture in ("bert", "nomic-bert", "nomic-bert-moe")),
    Deviation("cut-texts", (LayerName.EMBEDDINGS,), "outside",
              "Ollama cuts texts that are longer than the context; vLLM answers 400 unless truncate_prompt_tokens is "
              "-1", "ollama.md section 6.3", concerns=embeds),
)  # fmt: skip


def for_version(version: str | None) -> tuple[Deviation, ...]:
    """Those of one Ollama version: "0.33.0-rc2"; None, "" and what is no version mean the newest known."""
    return tuple(deviation for deviation in DEVIATIONS if deviation.in_version(version))


def for_layer(layer: LayerName, version: str | None, facts: BundleFacts) -> list[str]:
    """The sentences for `LayerReport.deviations`: those of this version that can touch this model in this layer.

    `version` is the source's own; None or "" takes the one that the bundle was made for.
    """
    version = version or facts.source.ollama_version
    return [d.sentence for d in for_version(version) if layer in d.layers and d.concerns(facts)]
