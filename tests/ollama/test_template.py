"""Ollama's rules around a Go template; `test_template_corpus` has them all at once."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from migrate.errors import BadInput, TemplateError
from migrate.ollama.template import capabilities, parse_template, render_chat, render_suffix, variables_used

USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "yes"}
SYSTEM = {"role": "system", "content": "S"}
DAY = datetime.date(2026, 3, 1)


@pytest.mark.parametrize(
    ("template", "messages", "expected"),
    [
        # a template without Messages runs once per turn; the last run ends with .Response
        ("<{{ .System }}|{{ .Prompt }}>{{ .Response }}#", [USER], "<|hi>"),
        ("<{{ .System }}|{{ .Prompt }}>{{ .Response }}#", [SYSTEM, USER, ANSWER, USER], "<S|hi>yes#<|hi>"),
        ("<{{ .System }}|{{ .Prompt }}>{{ .Response }}#", [USER, SYSTEM, USER], "<|hi>#<S|hi>"),
        # an answer that has begun goes on
        ("<{{ .Prompt }}>{{ .Response }}#", [USER, ANSWER], "<hi>yes"),
        # the cut is made in the text, whether the block is executed or not
        ("{{ if .System }}{{ .Response }}x{{ end }}y", [USER], ""),
        # $.Response is not seen
        ("{{ .Prompt }}{{ $.Response }}#", [USER], "hi#"),
        # a stage of a pipeline behind .Response goes, and with it the action
        ('{{ .Prompt }}{{ .Response | printf "%s" }}', [USER, ANSWER], "hi"),
        ('{{ printf "%s%s" .Prompt .Response }}', [USER, ANSWER], "hiyes"),
        # .Response is appended where a template has neither Response nor Messages
        ("<{{ .Prompt }}>", [USER, ANSWER], "<hi>yes"),
        ("<{{ .Prompt }}>", [USER, ANSWER, USER], "<hi>yes<hi>"),
        # messages of other roles are not seen
        ("<{{ .Prompt }}>", [{"role": "tool", "content": "t"}, USER], "<hi>"),
        ("", [USER], ""),
        # with Messages there is no Prompt
        ("{{ range .Messages }}{{ .Role }}{{ end }}{{ .Prompt }}", [USER], "user<no value>"),
        ("{{ .System }}{{ range .Messages }}[{{ .Role }} {{ .Content }}]{{ end }}", [SYSTEM, USER, USER],
         "S[system S][user hi\n\nhi]"),
    ],
)  # fmt: skip
def test_render(template: str, messages: list[Any], expected: str) -> None:
    assert render_chat(template, messages) == expected


@pytest.mark.parametrize(
    ("template", "messages"),
    [
        # Ollama panics when it deletes an else behind .Response
        ("{{ if .System }}{{ .Response }}{{ else }}x{{ end }}", [USER]),
        # the copy that is cut has neither functions nor templates
        ("{{ .Prompt }}{{ json .Prompt }}{{ .Response }}", [USER]),
        ('{{ define "a" }}x{{ end }}{{ template "a" . }}{{ .Response }}', [USER]),
        # Ollama's check of identifiers refuses a template call without data
        ('{{ define "a" }}x{{ end }}{{ template "a" }}{{ .Messages }}', [USER]),
        ("{{ range .Messages }}{{ .Nope }}{{ end }}", [USER]),
        ("{{ .Messages }}", [USER]),
    ],
)
def test_failures(template: str, messages: list[Any]) -> None:
    with pytest.raises(TemplateError):
        render_chat(template, messages)


def test_functions_work_on_all_turns_but_the_last() -> None:
    template = "{{ if .Response }}{{ json .Prompt }}{{ end }}{{ .Response }}"
    assert render_chat(template, [USER, ANSWER, USER]) == '"hi"yes'


@pytest.mark.parametrize(
    ("think", "expected"),
    [(None, "false  false"), (False, "false  true"), (True, "true medium true"), ("low", "true low true")],
)
def test_think(think: Any, expected: str) -> None:
    template = "{{ if .Messages }}{{ .Think }} {{ .ThinkLevel }} {{ .IsThinkSet }}{{ end }}"
    assert render_chat(template, [USER], think=think) == expected


def test_dates() -> None:
    template = '{{ if .Messages }}{{ currentDate }} {{ currentDate "%Y" }} {{ yesterdayDate }}{{ end }}'
    assert render_chat(template, [USER], today=DAY) == "2026-03-01 2026-03-01 2026-02-28"
    with pytest.raises(TemplateError):
        render_chat("{{ if .Messages }}{{ currentDate 1 }}{{ end }}", [USER])


def test_suffix() -> None:
    template = "{{ if .Suffix }}<pre>{{ .Prompt }}<suf>{{ .Suffix }}<mid>{{ else }}{{ .Prompt }}{{ end }}"
    assert render_suffix(template, "a", "b") == "<pre>a<suf>b<mid>"
    with pytest.raises(BadInput):
        render_suffix(template, "a", "")


@pytest.mark.parametrize(
    ("template", "used", "can"),
    [
        ("{{ .Prompt }}", {"prompt", "response"}, set()),
        ("{{ $.Messages }}", {"$", "messages"}, set()),
        ("{{ range $i, $m := .Messages }}{{ $m.Role }}{{ end }}{{ .Tools }}",
         {"messages", "$m", "role", "tools"}, {"tools"}),
        ("{{ .Suffix }}{{ .Response }}", {"suffix", "response"}, {"insert"}),
        ("{{ (index .Messages 0).Role }}", {"response"}, set()),
        (
            "{{ range .Messages }}{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ end }}",
            {"messages", "thinking"},
            {"thinking"},
        ),
        ("{{ range .Messages }}{{ if .Thinking }}{{ .Thinking }}</think>{{ end }}{{ end }}",
         {"messages", "thinking"}, set()),
    ],
)  # fmt: skip
def test_what_a_template_uses(template: str, used: set[str], can: set[str]) -> None:
    assert variables_used(parse_template(template)) == used
    assert capabilities(template) == can
