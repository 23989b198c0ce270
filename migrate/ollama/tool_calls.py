"""Tool calls found in what a model writes, as Ollama does for models without a built-in parser.

Source: Ollama 0.33, tools/tools.go and toolCallId of server/routes.go. Needs the standard library only, so that the
text of this module can stand in a file that is run by vLLM.
"""

from __future__ import annotations

import json
import math
import random
import re
import string
from collections.abc import Iterator, Sequence
from typing import Any

_NO_TAG = {"{": "}", "[": "]"}
"""Tags that are JSON themselves: a call then has to come first in an answer."""

_DEEPEST = 200
"""Levels of a call that are read; Go allows 10,000."""

_IN_STRING = re.compile(r'\\.?|"', re.DOTALL)
_OUTSIDE = re.compile(r'\\.?|["{}\[\]]', re.DOTALL)
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")


class CallSearch:
    """Behind `tag` the first name of a tool is looked for, and with it the first JSON object that can be its arguments.

    What stands before the tag is text of the answer. Unlike Ollama's, it does not repeat at the end of an answer what
    it gave as text, and gives text and calls that come in one piece both.
    """

    def __init__(self, tag: str, names: Sequence[str]) -> None:
        self.tag = tag
        self.names = [name for name in names if name]
        self.found = 0
        self._state = "text"
        self._hold("")

    def add(self, text: str) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
        """More of the answer -> what is text by now, and the calls (name, arguments) that are complete."""
        if self._state == "done":
            return text, []
        self._held += text
        content = ""
        if self._state == "text":
            at, complete = self._find_tag()
            content = self._held[:at]
            self._hold(self._held[at:])
            if self.tag in _NO_TAG and content.strip():
                content += self.finish()
                self._state = "done"
                return content, []
            if not complete:
                return content, []
            self._state = "calls"
        calls = []
        while call := self._next_call():
            calls.append(call)
            self.found += 1
        if self._is_closed():
            content += self._held
            self._hold("")
            self._state = "done"
        return content, calls

    def finish(self) -> str:
        """What was held back and is no call after all. Behind a tag of its own it is lost, as with Ollama."""
        text = self._held if self.tag in _NO_TAG and not self.found else ""
        self._hold("")
        return text

    def _hold(self, text: str) -> None:
        """Begins anew, with what is to be read again."""
        self._held = text
        self._object = FirstObject()
        self._brackets, self._depth = Brackets(), 0

    def _find_tag(self) -> tuple[int, bool]:
        at = self._held.find(self.tag)
        if at >= 0:
            return at, True
        for length in range(min(len(self._held), len(self.tag)), 0, -1):
            if self._held.endswith(self.tag[:length]):
                return len(self._held) - length, False
        return len(self._held), False

    def _next_call(self) -> tuple[str, dict[str, Any]] | None:
        name, name_end = self._find_name()
        if name is None or (found := self._object.find(self._held)) is None:
            return None
        value, at = found
        known, arguments = _search_object(name, value)
        if not known:
            arguments = value
        if arguments is None:
            return None
        self._hold(self._held[max(at, name_end) :])
        return name, arguments

    def _find_name(self) -> tuple[str | None, int]:
        """The first name held, the longest of those that begin there; none while one may be under way."""
        for name in self.names:
            if any(self._held.endswith(name[:length]) for length in range(1, len(name))):
                return None, 0
        places = [(self._held.find(name), -len(name), name) for name in self.names if name in self._held]
        if not places:
            return None, 0
        at, _, name = min(places, key=lambda place: place[:2])
        return name, at + len(name)

    def _is_closed(self) -> bool:
        """Without a tag of its own: whether the JSON that began the answer has come to its end."""
        close = _NO_TAG.get(self.tag)
        if close is None:
            return False
        for _, char in self._brackets.more(self._held):
            self._depth += (char == self.tag) - (char == close)
            if char == close and self._depth == 0:
                return True
        return False


class Brackets:
    """The brackets of a growing text that stand in no JSON string."""

    def __init__(self) -> None:
        self._at = 0
        self._in_string = False

    def more(self, text: str) -> Iterator[tuple[int, str]]:
        """(position, bracket) of those that were not given yet."""
        while match := (_IN_STRING if self._in_string else _OUTSIDE).search(text, self._at):
            if match[0] == "\\":  # what it escapes has not come yet
                self._at = match.start()
                return
            self._at = match.end()
            if match[0] == '"':
                self._in_string = not self._in_string
            elif match[0][0] != "\\":
                yield match.start(), match[0]
        self._at = len(text)


class FirstObject:
    """The first JSON object in a growing text."""

    def __init__(self) -> None:
        self._brackets, self._depth = Brackets(), 0
        self._start = -1
        self._found: tuple[dict[str, Any], int] | None = None

    def find(self, text: str) -> tuple[dict[str, Any], int] | None:
        """The object and where it ends; None while there is no whole one."""
        if self._found is not None:
            return self._found
        for at, char in self._brackets.more(text):
            if char == "{":
                if self._depth == 0:
                    self._start = at
                self._depth += 1
            elif char == "}":
                self._depth = max(self._depth - 1, 0)
                if self._depth > 0 or self._start < 0:
                    continue
                try:
                    self._found = _parse_object(text[self._start : at + 1]), at
                except (ValueError, RecursionError):
                    self._start = -1
                    continue
                return self._found
        return None


def tool_call_id() -> str:
    """An id in Ollama's form."""
    return "call_" + "".join(random.choices(string.ascii_lowercase + string.digits, k=8))


def _search_object(name: str, value: dict[str, Any]) -> tuple[bool, dict[str, Any] | None]:
    """(True, arguments) where an object says what they are; arguments None: it is a call without any."""
    if "name" in value:
        for key in ("arguments", "parameters"):
            if (found := _arguments_at(value, key))[0]:
                return found
        return True, None
    if (found := _arguments_at(value, name))[0]:
        return found
    for child in value.values():
        for item in child if isinstance(child, list) else [child]:
            if isinstance(item, dict) and (found := _search_object(name, item))[0]:
                return found
    return False, None


def _arguments_at(value: dict[str, Any], key: str) -> tuple[bool, dict[str, Any] | None]:
    """An object, or the text of one. The text "null" is arguments too, and none."""
    given = value.get(key)
    if isinstance(given, str):
        if given.strip(" \t\r\n") == "null":
            return True, None
        try:
            given = _parse_object(given)
        except (ValueError, RecursionError):
            return False, None
    return (True, given) if isinstance(given, dict) else (False, None)


def _parse_object(text: str) -> dict[str, Any]:
    """Raises ValueError for what Go's decoder refuses too and for what nests too deep, RecursionError where
    Python gave up first."""
    value = json.loads(text, parse_constant=_refuse, parse_float=_float64, parse_int=_integer)
    if not isinstance(value, dict) or _nests_too_deep(value):
        raise ValueError("no object")
    return _without_surrogates(value) if _ESCAPED_SURROGATE.search(text) else value


def _nests_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            item
            for parent in level
            for item in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return False
    return True


def _float64(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("no float64")
    return value


def _integer(text: str) -> int:
    _float64(text)
    return int(text)


def _refuse(word: str) -> None:
    raise ValueError(word)


def _without_surrogates(value: Any) -> Any:
    """Half of a surrogate pair is U+FFFD in Go."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value
