"""Random templates and conversations, for comparing the translation with Ollama's rendering."""

from __future__ import annotations

from random import Random
from typing import Any

_ROLES = ["user", "assistant", "system", "tool", "user", "assistant", "control", "documentation"]
_TEXTS = ["", "Hi", "a <b> & 'c' \"d\"", "é日本🎉", "line\n\nline ", "thinking", "length 5", "{{ x }}{% y %}", "0", " "]
_STRINGS = ['"user"', '"assistant"', '"system"', '"tool"', '""', '"Hi"', '"é"', "`raw \\n {%`", '"a\\n\\"b\\""']
_NUMBERS = [0, 1, -1, 2.5, 1e6, 123456789, 1e21, 1.5e-5, 1e-7, 2**53 + 1, 100, 1e16, 12345678.9, 0.1, 1e-4]


class TemplateWriter:
    """Writes one random template; `budget` bounds its length."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.budget = 40
        self.variables: list[tuple[str, str]] = []
        self.count = 0

    def template(self) -> str:
        self.legacy = self.random.random() < 0.25
        self.variables = [("$", "root")]
        return self.block("root", 0)

    def choose(self, *options: str) -> str:
        return self.random.choice(options)

    def block(self, dot: str, depth: int) -> str:
        mark = len(self.variables)
        parts = [self.statement(dot, depth) for _ in range(self.random.randint(1, 4))]
        del self.variables[mark:]
        return "".join(parts)

    def statement(self, dot: str, depth: int) -> str:
        self.budget -= 1
        roll = self.random.random()
        if self.budget < 0 or depth > 4 or roll < 0.3:
            return self.choose("text", "\n", "<|im_start|>", " {# x #} ", "'q' \"r\" \\n", "é\n\n", "{%- x %}")
        if roll < 0.5:
            return self.action(self.printable(dot))
        if roll < 0.7:
            return self.branch(dot, depth)
        if roll < 0.85:
            return self.range(dot, depth)
        if roll < 0.88:
            return self.with_(dot, depth)
        return self.variable(dot)

    def action(self, pipe: str) -> str:
        return f"{self.choose('{{', '{{- ')} {pipe} {self.choose('}}', ' -}}')}"

    def branch(self, dot: str, depth: int) -> str:
        text = self.action("if " + self.condition(dot)) + self.block(dot, depth + 1)
        if self.random.random() < 0.4:
            text += self.action("else if " + self.condition(dot)) + self.block(dot, depth + 1)
        if self.random.random() < 0.4:
            text += self.action("else") + self.block(dot, depth + 1)
        return text + self.action("end")

    def range(self, dot: str, depth: int) -> str:
        sources = {
            "root": [".Messages", ".Tools"],
            "message": [".ToolCalls", "$.Messages"],
            "call": [".Function.Arguments"],
        }
        sources["tool"] = [".Function.Parameters.Properties", "$.Tools"]
        sources["property"] = [".Type", ".Enum", ".Required"]
        if self.legacy:
            sources = {}
        source = self.choose(*sources.get(dot, [".First" if dot == "root" else "$.First"]))
        element = {"Messages": "message", "Tools": "tool", "ToolCalls": "call", "Properties": "property"}.get(
            source.rsplit(".", 1)[-1], "value" if source.endswith(("Arguments", "Enum")) else "string"
        )
        key = "string" if source.endswith(("Properties", "Arguments")) else "int"
        mark = len(self.variables)
        if self.random.random() < 0.6:
            index, value = self.fresh(), self.fresh()
            head = f"range {index}, {value} := {source}"
            self.variables += [(index, f"{key}@{source}"), (value, element)]
        else:
            head = f"range {source}"
        text = self.action(head) + self.block(element, depth + 1)
        if self.random.random() < 0.1:
            text += self.action("if " + self.condition(element)) + self.action(self.choose("continue", "break"))
            text += self.action("end") + "after"
        del self.variables[mark:]
        if self.random.random() < 0.15:
            text += self.action("else") + "none"
        return text + self.action("end")

    def with_(self, dot: str, depth: int) -> str:
        kind = self.choose("string", "message") if dot == "message" else "string"
        value = "." if kind == "message" else self.string(dot)
        return self.action("with " + value) + self.block(kind, depth + 1) + self.action("end")

    def fresh(self) -> str:
        self.count += 1
        return self.choose("$x", "$lastUser", f"$v{self.count}")

    def variable(self, dot: str) -> str:
        known = {n: k for n, k in self.variables if k in ("bool", "string", "int")}
        if known and self.random.random() < 0.6:
            name = self.choose(*known)
            return self.action(f"{name} = {self.value(known[name], dot)}")
        kind, name = self.choose("bool", "string", "int"), self.fresh()
        text = self.action(f"{name} := {self.value(kind, dot)}")
        self.variables = [entry for entry in self.variables if entry[0] != name] + [(name, kind)]
        return text

    def value(self, kind: str, dot: str) -> str:
        return {"bool": self.condition, "string": self.string, "int": self.integer}[kind](dot)

    def named(self, kind: str) -> list[str]:
        return [name for name, k in self.variables if k.split("@")[0] == kind]

    def string(self, dot: str) -> str:
        own = {
            "message": [".Role", ".Content", ".Thinking", ".ToolName"],
            "tool": [".Function.Name", ".Function.Description"],
        }
        own |= {"call": [".Function.Name", ".ID"], "property": [".Description"], "string": ["."]}
        root = [".System", ".Response", ".Prompt"] if dot == "root" else ["$.System", "$.Response"]
        simple = self.named("string") + own.get(dot, []) * 3 + root + [self.choose(*_STRINGS)]
        if self.random.random() < 0.1:
            a, b = self.choose(*simple), self.choose(*simple)
            n = self.random.randint(0, 3)
            forms = [f'(printf "%s-%v%%" {a} {b})', f"(print {a} {n} {b})", f"(slice {a} 0 {n})", f"(or {a} {b})"]
            return self.choose(*forms, f"(print {n} {n} {a})", f"(json {a})", f"(and {a} {b})", f"(slice {a} {n})")
        return self.choose(*simple)

    def integer(self, dot: str) -> str:
        indices = [name for name, kind in self.variables if kind.startswith("int")]
        options = [*indices, str(self.random.randint(-1, 3)), f"(len {self.string(dot)})"]
        if not self.legacy:
            options.append("(len $.Messages)")
            options += [f"(len (slice $.Messages {n}))" for n, k in self.variables if k == "int@.Messages"] * 3
        return self.choose(*options)

    def condition(self, dot: str, depth: int = 0) -> str:
        roll = self.random.random()
        if depth < 2 and roll < 0.3:
            name = self.choose("and", "or", "not")
            operands = [
                self.condition(dot, depth + 1) for _ in range(1 if name == "not" else self.random.randint(1, 3))
            ]
            return f"({name} {' '.join(operands)})"
        if roll < 0.5:
            return f"({self.choose('eq', 'ne')} {self.string(dot)} {self.string(dot)})"
        if roll < 0.6:
            return f"({self.choose('eq', 'ne', 'lt', 'le', 'gt', 'ge')} {self.integer(dot)} {self.integer(dot)})"
        if roll < 0.65:
            return f"(eq {self.string(dot)} {self.string(dot)} {self.string(dot)})"
        flags = ["$.Think", "$.IsThinkSet", "$.System", "$.Suffix", "true"]
        flags += [] if self.legacy else ["$.Tools", "$.Messages"]
        flags += {"message": [".ToolCalls", ".Thinking", "."], "tool": [".Function.Parameters", ".Function"]}.get(
            dot, []
        )
        return self.choose(*flags, *self.named("bool"), self.string(dot))

    def printable(self, dot: str) -> str:
        roll = self.random.random()
        if roll < 0.6:
            return self.string(dot)
        extra = ["currentDate", "yesterdayDate", "$.ThinkLevel", "$.First", self.integer(dot), "$.Think"]
        if not self.legacy:
            extra += ["$.Tools", "json $.Tools", "(index $.Messages 0).Role"]
        extra += {
            "message": ["json .ToolCalls", ".ToolCallID", '(eq .Role "user")'],
            "tool": [".", ".Function", "json .", "json .Function.Parameters", ".Function.Parameters.Properties"],
            "call": [".Function.Arguments", "json .Function.Arguments", "json .", ".Function.Index"],
            "property": [".Type", "json .", "index .Type 0", "len .Type", "json .Enum", "toTypeScriptType ."],
            "value": [".", "json ."],
        }.get(dot, []) * 4
        return self.choose(*extra)


def conversation(random: Random) -> dict[str, Any]:
    """One request to /api/chat."""
    request: dict[str, Any] = {"messages": [_message(random) for _ in range(random.randint(1, 7))]}
    if random.random() < 0.5:
        request["tools"] = [_tool(random) for _ in range(random.randint(1, 2))]
    if random.random() < 0.5:
        request["think"] = random.choice([True, False, "low", "high"])
    return request


def _message(random: Random) -> dict[str, Any]:
    message: dict[str, Any] = {"role": random.choice(_ROLES), "content": random.choice(_TEXTS)}
    if message["role"] == "assistant":
        if random.random() < 0.4:
            names = random.sample(["a", "b"], random.randint(1, 2))
            calls = [
                {"id": f"call_{n}", "function": {"name": f"f_{n}", "arguments": _arguments(random)}} for n in names
            ]
            message["tool_calls"] = calls
        if random.random() < 0.4:
            message["thinking"] = random.choice(_TEXTS)
    if message["role"] == "tool":
        message["tool_name"] = random.choice(["f_a", "f_b", "python"])
        if random.random() < 0.7:
            message["tool_call_id"] = random.choice(["call_a", "call_b"])
    return message


def _arguments(random: Random) -> dict[str, Any]:
    keys = random.sample(["b", "a", "B", "é", "items", "a<b", "keys"], random.randint(0, 4))
    return {key: _json(random, 2) for key in keys}


def _json(random: Random, depth: int) -> Any:
    options: list[Any] = [random.choice(_TEXTS), random.choice(_NUMBERS), True, False, None]
    if depth:
        options += [
            [_json(random, depth - 1) for _ in range(random.randint(0, 2))],
            {"z": 1, "y": _json(random, depth - 1)},
            {},
        ]
    return random.choice(options)


def _tool(random: Random) -> dict[str, Any]:
    function: dict[str, Any] = {"name": random.choice(["f_a", "f_b", "python"])}
    if random.random() < 0.8:
        function["description"] = random.choice(_TEXTS)
    if random.random() < 0.8:
        parameters: dict[str, Any] = {"type": "object"}
        function["parameters"] = parameters
        if random.random() < 0.9:
            names = random.sample(["z", "a", "items", "B", "x<y"], random.randint(0, 3))
            parameters["properties"] = {name: _property(random, 2) for name in names}
        if random.random() < 0.5:
            parameters["required"] = ["z"]
        if random.random() < 0.2:
            parameters["$defs"] = {"b": {"type": "string"}, "a": 1.0}
    return {"type": "function", "function": function}


def _property(random: Random, depth: int) -> dict[str, Any]:
    result: dict[str, Any] = {"title": "dropped"}
    if random.random() < 0.8:
        result["type"] = random.choice(["string", "integer", "array", ["string", "null"], ["number"], "object"])
    for key, value in (
        ("description", random.choice(_TEXTS)),
        ("enum", [_json(random, 0) for _ in range(2)]),
        ("items", {"type": "string", "minimum": 1}),
        ("required", ["b"]),
        ("default", 1),
    ):
        if random.random() < 0.3:
            result[key] = value
    if depth and random.random() < 0.3:
        result["properties"] = {"b": _property(random, depth - 1), "a": _property(random, depth - 1)}
    if depth and random.random() < 0.2:
        result["anyOf"] = [_property(random, depth - 1), {"type": "null"}]
    return result
