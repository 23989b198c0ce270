"""Single constructs of Go templates, what becomes of them, and what is refused."""

from __future__ import annotations

import time
from datetime import date
from typing import Any

import jinja2
import pytest

from migrate.chat_template import prove, render, translate
from migrate.errors import MigrateError, Refused, TemplateError

USER = {"role": "user", "content": "Hi"}
ASSISTANT = {"role": "assistant", "content": "Yes"}
CHATML = "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
LEGACY = "{{ if .System }}S:{{ .System }}\n{{ end }}{{ if .Prompt }}U:{{ .Prompt }}\n{{ end }}A:{{ .Response }}</s>\n"


def rendered(template: str, *messages: dict[str, Any], **request: Any) -> str:
    return render(translate(template).jinja, messages or (USER,), **request)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ range .Messages }}{{ .Content }}{{ end }}", "Hi"),
        ("{{ range $i, $_ := .Messages }}{{ if eq (len (slice $.Messages $i)) 1 }}last{{ end }}{{ end }}", "last"),
        ("{{ range .Messages }}{{ end }}{{ .Prompt }}", "<no value>"),
        ("{{ range .Messages }}{{ end }}{{ if .Suffix }}fim{{ else }}chat{{ end }}", "chat"),
        ("{{ $x := 1 }}{{ range .Messages }}{{ $x = 2 }}{{ end }}{{ $x }}", "2"),
        ("{{ $x := 1 }}{{ range .Messages }}{{ $x := 2 }}{{ end }}{{ $x }}", "1"),
        ("{{ range .Messages }}{{ len .Content }}{{ end }}", "2"),
        ("{{ (index .Messages 0).Role }}{{ .Messages | len }}", "user1"),
        ("{{ range .Messages }}{{ print 1 2 .Role 3 }}{{ end }}", "1 2user3"),
        ('{{ range .Messages }}{{ printf "%s:%v%%" .Role .Content }}{{ end }}', "user:Hi%"),
        ("{{ range .Messages }}{{ slice .Content 1 }}{{ end }}", "i"),
        ("{{ range .Messages }}{{ `{{ x }} {% y %} {# z #}` }}{{ end }}", "{{ x }} {% y %} {# z #}"),
        ('{{ define "m" }}<{{ .Content }}>{{ end }}{{ range .Messages }}{{ template "m" . }}{{ end }}', "<Hi>"),
        ("{{ range .Messages }}{{ with .Content }}{{ . }}!{{ end }}{{ end }}", "Hi!"),
        ("{{ range .Messages }}{{ range .ToolCalls }}x{{ else }}none{{ end }}{{ end }}", "none"),
        ("{{ range .Messages }}{{ end }}{{ currentDate }} {{ yesterdayDate }}", "2024-03-01 2024-02-29"),
        ("{{ range .Messages }}{{ end }}{{ json .Tools }}", "null"),
        ("{{ $json := 1 }}{{ range .Messages }}{{ $json = 2 }}{{ json .Role }}{{ end }}{{ $json }}", '"user"2'),
        ("{{ $tools := print .System `a` }}{{ range .Messages }}{{ $tools }}{{ end }}{{ json $.Tools }}", "anull"),
    ],
)
def test_constructs(template: str, expected: str) -> None:
    assert rendered(template, today=date(2024, 3, 1)) == expected


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ range .Messages }}{{ . }}{{ end }}", "line 1: printing a whole message"),
        ("{{ .Messages }}", "printing the list of messages"),
        ("{{ range .Messages }}{{ html .Content }}{{ end }}", "the function html"),
        ("\n{{ range .Messages }}{{ end }}{{ len 3 }}", "line 2: len of something that has no length"),
        ("{{ if .Response }}{{ .Response }}{{ else }}x{{ end }}", "`else`: Ollama fails on every chat"),
        ("{{ range .Messages }}{{ end }}" + "x" * 300_000, "characters"),
        ('{{ define "a" }}{{ template "a" . }}{{ end }}{{ template "a" .Messages }}', "call each other too deeply"),
    ],
)
def test_refused_with_the_reason(template: str, reason: str) -> None:
    with pytest.raises(Refused, match=reason.replace("`", ".")):
        translate(template)


def test_a_template_that_does_not_parse() -> None:
    with pytest.raises(TemplateError):
        translate("{{ if }}")


def test_a_conversation_that_ollama_fails_on_raises() -> None:
    template = "{{ range .Messages }}{{ range .ToolCalls }}{{ .Nothing }}{{ end }}{{ .Content }}{{ end }}"
    assert rendered(template) == "Hi"
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}
    with pytest.raises(jinja2.TemplateError, match="migrate: Ollama cannot render"):
        rendered(template, USER, ASSISTANT | {"tool_calls": [call]})


def test_a_plain_template_stays_plain() -> None:
    jinja = translate(CHATML).jinja
    assert len(jinja.splitlines()) <= 20
    assert jinja.endswith(
        "{%- for message in chat.turns %}\n"
        "    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n"
        "    {{- '<|im_start|>assistant\\n' }}\n"
        "{%- endif %}\n"
    )


@pytest.mark.parametrize("template", [CHATML, LEGACY])
def test_the_generation_prompt_can_be_left_out(template: str) -> None:
    with_prompt, without = rendered(template), rendered(template, add_generation_prompt=False)
    assert with_prompt.startswith(without)
    assert "Hi" in without
    assert with_prompt[len(without) :] in ("<|im_start|>assistant\n", "A:")


def test_an_answer_that_has_begun_is_kept_without_generation_prompt() -> None:
    assert rendered(LEGACY, USER, ASSISTANT, add_generation_prompt=False) == "U:Hi\nA:Yes"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, "<s><|im_start|>user"),
        ("<bos>" + CHATML, "<s><|im_start|>user"),
        ("<s>" + CHATML, "<s><s><|im_start|>"),
    ],
)
def test_bos_is_printed_where_llama_cpp_adds_it(template: str, expected: str) -> None:
    assert render(translate(template, bos=True).jinja, [USER], bos_token="<s>").startswith(expected)


@pytest.mark.parametrize(
    ("request_", "default", "expected"),
    [
        ({}, None, "false false "),
        ({}, True, "true true medium"),
        ({"enable_thinking": True}, None, "true true medium"),
        ({"enable_thinking": False}, True, "true false "),
        ({"reasoning_effort": "low", "enable_thinking": True}, None, "true true low"),
        ({"reasoning_effort": "high"}, None, "true true high"),
        ({"reasoning_effort": "none"}, True, "true false "),
        ({"reasoning_effort": None}, None, "false false "),
    ],
)
def test_thinking_switches(request_: dict[str, Any], default: bool | None, expected: str) -> None:
    template = "{{ range .Messages }}{{ end }}{{ .IsThinkSet }} {{ .Think }} {{ .ThinkLevel }}"
    assert render(translate(template, think=default).jinja, [USER], **request_) == expected


def test_a_tool_result_is_named_by_its_call() -> None:
    template = "{{ range .Messages }}{{ if eq .Role `tool` }}[{{ .ToolName }}]{{ end }}{{ end }}"
    calls: list[dict[str, Any]] = [
        {"id": i, "type": "function", "function": {"name": f"f{i}", "arguments": {}}} for i in ("1", "2")
    ]
    result = {"role": "tool", "content": "x"}
    messages: list[Any] = [
        USER,
        ASSISTANT | {"tool_calls": calls},
        result | {"tool_call_id": "2"},
        result | {"name": "own"},
        result,
    ]
    assert rendered(template, *messages) == "[f2][own][]"


def test_content_that_is_not_text_is_refused() -> None:
    with pytest.raises(jinja2.TemplateError, match="must be text"):
        rendered(CHATML, {"role": "user", "content": [{"type": "text", "text": "Hi"}]})


def test_system_and_messages_of_the_modelfile_in_any_text() -> None:
    system = 'It\'s "so" {{ x }} {% raw %} #} \\n\n' * 5
    jinja = translate(CHATML, system=system, messages=[USER, ASSISTANT]).jinja
    proof = prove(CHATML, jinja, system=system, messages=[USER, ASSISTANT])
    assert len(proof.of("exact")) == len(proof.checks)


def test_a_proof_finds_the_first_difference() -> None:
    jinja = translate(CHATML).jinja.replace("<|im_end|>", "<|end|>")
    check = prove(CHATML, jinja).of("wrong")[0]
    assert check.expected is not None
    assert check.first_difference == check.expected.index("im_end|>")


@pytest.mark.parametrize(
    "template",
    [
        "{{ if .Messages }}" * 60_000,
        "{{ range .Messages }}{{ if .Role }}" * 3_000 + "{{ end }}" * 6_000,
        "{{ range .Messages }}" + "(" * 100_000,
        "{{ range .Messages }}{{ " + "not (" * 3_000 + "true" + ")" * 3_000 + " }}{{ end }}",
        "{{ range .Messages }}{{ " + "| len" * 30_000 + " }}{{ end }}",
        "{{ range .Messages }}{{ eq " + ".Role " * 20_000 + "}}{{ end }}",
        "{{ range .Messages }}" + "{{ .Role }}" * 15_000 + "{{ end }}",
        "{{ $x := 1 }}" + "{{ range .Messages }}{{ $x = print $x $x }}{{ end }}" * 3_000,
        "".join(f'{{{{ define "a{i}" }}}}{f"{{{{ template `a{i + 1}` . }}}}" * 9}{{{{ end }}}}' for i in range(15))
        + '{{ template "a0" .Messages }}',
        "x" * 1_000_000,
        "{{ .Messages }}" * 66_000,
    ],
)
def test_hostile_templates_end_quickly(template: str) -> None:
    start = time.perf_counter()
    try:
        translate(template)
    except MigrateError:
        pass
    assert time.perf_counter() - start < 2
