"""The Modelfile: the same text gives the same commands as Ollama's own parser, or an error that says what to change.

Ollama lexes rune by rune, not line by line (parser/parser.go, read at 0.33). What follows from that:

- A comment starts where a command could start, nowhere else: `temperature 0.1  # low` has the value `0.1  # low`.
- A value that opens with a quote runs to the first line that *ends* with that quote, however many lines that takes.
  There are no escapes; single quotes are ordinary characters.
- Characters Go does not call printable (no-break space, zero-width joiner, BOM ...) vanish; in values, tabs stay.
- `PARAMETER` takes exactly one blank before its name. Names and types are checked later (`options.check`).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from migrate.errors import ModelfileError
from migrate.findings import Finding, Status
from migrate.ollama.model import OllamaModel
from migrate.ollama.options import KNOWN_PARAMETERS

COMMANDS = (
    "FROM", "LICENSE", "TEMPLATE", "SYSTEM", "ADAPTER", "DRAFT", "RENDERER", "PARSER", "PARAMETER", "MESSAGE",
    "REQUIRES",
)  # fmt: skip
ROLES = ("system", "user", "assistant")
MAX_BYTES = 64 << 20
"""A Modelfile holds text; anything larger is some other file (a GGUF, most likely)."""

_NEWLINE = re.compile(r"[\r\n]")
_NOT_BLANK = re.compile(r"[^ \t\r\n]")
_LETTERS = re.compile(r"[A-Za-z]*")
_PARAMETER_NAME = re.compile(r"[A-Za-z0-9_]*")
_LINE_BREAK = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `name` is lower-case, "model" for FROM, and the parameter's own name for PARAMETER; `args` is its
    value, for MESSAGE "role: text". A PARAMETER named like a command is that command, to Ollama too.
    """

    name: str
    args: str


def _one_replacement_per_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd", error.start + 1


codecs.register_error("migrate.go", _one_replacement_per_byte)


def decode(data: bytes) -> str:
    """Bytes of a Modelfile to text: UTF-8, or what its byte order mark says (UTF-8, UTF-16 LE/BE).

    Invalid bytes become U+FFFD one by one, as Go decodes them. Raises ModelfileError past `MAX_BYTES`.
    """
    if len(data) > MAX_BYTES:
        raise ModelfileError(
            f"{len(data):,} bytes are too many for a Modelfile", hint="Is this a model file? Name a GGUF directly."
        )
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="migrate.go")


def parse(text: str) -> list[Command]:
    """The commands of a Modelfile in order, in time linear in its length.

    Raises ModelfileError where Ollama refuses the file. Its `line` counts as Ollama does (both characters of a CRLF,
    and the newline that ended a lone word); the message names the line an editor shows.
    """
    commands = list(_Lexer(text).commands())
    if not any(c.name == "model" for c in commands):
        raise ModelfileError("no FROM line", hint='Add one, for example "FROM llama3.2" or "FROM ./model.gguf".')
    return commands


class _Lexer:
    def __init__(self, text: str) -> None:
        self.text = text
        self.pos = 0

    def commands(self) -> Iterator[Command]:
        while self._to_next_command():
            start = self.pos
            word = self._command_word()
            if word == "parameter":
                yield Command(self._parameter_name(start), self._value(start))
            elif word == "message":
                role = self._role(start)
                yield Command(word, f"{role}: {self._value(start)}")
            else:
                yield Command("model" if word == "from" else word, self._value(start))

    def _to_next_command(self) -> bool:
        """Skips blanks, empty lines and comments; False at the end."""
        while found := _NOT_BLANK.search(self.text, self.pos):
            self.pos = found.start()
            if found.group() != "#":
                return True
            newline = _NEWLINE.search(self.text, self.pos)
            if newline is None:
                return False
            self.pos = newline.end()
        return False

    def _command_word(self) -> str:
        start = self.pos
        letters = _LETTERS.match(self.text, start + 1)
        assert letters is not None
        first = self.text[start]
        word = (first if first.isprintable() else "") + letters.group()
        self.pos = letters.end()
        if self.pos == len(self.text):
            raise self._error(start, f"the file ends after {_shown(word)}", hint="A command needs a value.")
        if self.text[self.pos] not in " \t" or word.upper() not in COMMANDS:
            raise self._bad_command(start)
        self.pos += 1
        return word.lower()

    def _bad_command(self, start: int) -> ModelfileError:
        line = self._line_at(start)
        word = line.split(maxsplit=1)[0] if line.split() else line
        return self._error(
            start, f"{_shown(line)} does not start with a command", hint=_command_hint(word), at=self.pos
        )

    def _parameter_name(self, start: int) -> str:
        name = self._word(_PARAMETER_NAME)
        if not self._blank():
            hint = "A parameter's name is letters, digits and _, without quotes, then a blank and the value."
            raise self._error(start, f"{_shown(self._line_at(start))} has no parameter name and value", hint=hint)
        return name

    def _role(self, start: int) -> str:
        role = self._word(_LETTERS)
        if not self._blank():
            hint = 'Write "MESSAGE user Hello": a role, one blank, the text.'
            raise self._error(start, f"{_shown(self._line_at(start))} has no role and text", hint=hint)
        if role not in ROLES:
            why = "exactly one blank goes before the role" if not role else "roles are lower-case"
            hint = f"The role must be system, user or assistant; {why}."
            raise self._error(start, f"{_shown(role)} is no role for MESSAGE", hint=hint)
        return role

    def _word(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.pos)
        assert found is not None
        self.pos = found.end()
        return found.group()

    def _blank(self) -> bool:
        """Takes one space or tab."""
        if self.text[self.pos : self.pos + 1] not in (" ", "\t"):
            return False
        self.pos += 1
        return True

    def _value(self, start: int) -> str:
        """The value from here to the newline that ends it, trimmed and without its quotes."""
        first, newline = self._line()
        trimmed = first.strip(" \t")
        quote = next((q for q in ('"""', '"') if trimmed.startswith(q)), "")
        if not quote or (len(trimmed) >= 2 * len(quote) and trimmed.endswith(quote)):
            return trimmed[len(quote) : len(trimmed) - len(quote)]
        parts = [first.lstrip(" \t")]
        while newline:
            parts.append(newline)
            line, newline = self._line()
            parts.append(line)
            if line.rstrip(" \t").endswith(quote):
                return "".join(parts).rstrip(" \t")[len(quote) : -len(quote)]
        raise self._error(
            start,
            f"{_shown(self._line_at(start))} opens a {quote} that no line closes",
            hint=f"A quoted value ends at the first line whose last characters are {quote}.",
        )

    def _line(self) -> tuple[str, str]:
        """The kept characters up to the next newline, and that newline ("" at the end of the file)."""
        found = _NEWLINE.search(self.text, self.pos)
        end, newline = (found.start(), found.group()) if found else (len(self.text), "")
        raw = self.text[self.pos : end]
        self.pos = end + len(newline)
        # str.isprintable and Go's strconv.IsPrint agree by definition: no separators but U+0020, nothing of class C.
        return raw if raw.isprintable() else "".join(c for c in raw if c == "\t" or c.isprintable()), newline

    def _line_at(self, start: int) -> str:
        found = _NEWLINE.search(self.text, start)
        return self.text[start : found.start() if found else len(self.text)]

    def _error(self, start: int, message: str, *, hint: str, at: int | None = None) -> ModelfileError:
        editor_line = 1 + len(_LINE_BREAK.findall(self.text, 0, start))
        counted = 1 + len(_NEWLINE.findall(self.text, 0, (start if at is None else at) + 1))
        return ModelfileError(f"line {editor_line}: {message}", line=counted, hint=hint)


def _shown(text: str, limit: int = 60) -> str:
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def _command_hint(word: str) -> str:
    bare = re.split(r"[^A-Za-z_]", word, maxsplit=1)[0]
    if bare.upper() in COMMANDS:
        return f"A blank must follow {bare.upper()}."
    if bare.lower() in KNOWN_PARAMETERS:
        return f'Did you mean "PARAMETER {bare.lower()} ..."?'
    if bare.upper() == "PROMPT":
        return "PROMPT is of 2023; today's Ollama wants the whole format in TEMPLATE."
    if near := get_close_matches(bare.upper(), COMMANDS, n=1, cutoff=0.75):
        return f"Did you mean {near[0]}?"
    return f"A line starts with {', '.join(COMMANDS)} or #. Was a quoted text closed too early?"


def warnings(commands: Sequence[Command]) -> tuple[Finding, ...]:
    """What Ollama accepts although it hardly does what was meant. Nothing is repaired: the text moves as it is."""
    return tuple(finding for command in commands for finding in _warn(command))


def model_warnings(model: OllamaModel) -> tuple[Finding, ...]:
    """The same for a model, wherever it was read: its texts are what the Modelfile had."""
    stop = model.parameters.get("stop", ())
    commands = [Command("stop", text) for text in stop if isinstance(text, str)]
    commands += [Command(name, text) for name, text in (("template", model.template), ("system", model.system)) if text]
    commands += [Command("message", f"{m['role']}: {m.get('content', '')}") for m in model.messages]
    return warnings(commands)


def _warn(command: Command) -> Iterator[Finding]:
    name, value = command.name, command.args
    if name == "stop":
        if value.startswith("[") and value.endswith("]") and ('"' in value or value == "[]"):
            yield _suspicious(
                command,
                "one stop text with brackets and quotes in it, not a list: it never fires",
                "Write one PARAMETER stop line per text.",
            )
        elif len(value) > 1 and value[0] == value[-1] == "'":
            yield _suspicious(
                command, "single quotes are part of the stop text: it never fires", "Use double quotes or none."
            )
        if "\\n" in value or "\\t" in value:
            yield _suspicious(
                command,
                "a Modelfile has no escapes: this is a backslash and a letter, so it never fires",
                'Break the line inside """...""" instead.',
            )
        if "\n" in value and re.search(
            r"^\s*(?:PARAMETER|SYSTEM|TEMPLATE|FROM)\s", value, re.MULTILINE | re.IGNORECASE
        ):
            yield _suspicious(
                command,
                "the quote was not closed at the end of its line, so the stop text swallowed the lines that follow",
                'End the line with ". A comment after the closing quote keeps it open.',
            )
    elif name in ("system", "message") and "{{" in value:
        yield _suspicious(command, "template actions are not evaluated here: the model sees them as text", "")
    elif name == "template" and "\\n" in re.sub(r"\{\{.*?\}\}", "", value, flags=re.DOTALL):
        yield _suspicious(
            command,
            "a backslash and an n reach the prompt: there are no escapes outside {{ }}",
            "Break the line instead.",
        )
    elif name == "model" and not value:
        yield _suspicious(command, "FROM names nothing: `ollama create` refuses the file", "Name a model or a GGUF.")


def _suspicious(command: Command, reason: str, action: str) -> Finding:
    item = "FROM" if command.name == "model" else command.name.upper()
    if item not in COMMANDS:
        item = f"PARAMETER {command.name}"
    return Finding(item, Status.EXACT, source=_shown(command.args), reason=reason, action=action)
