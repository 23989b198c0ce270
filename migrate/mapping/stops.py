"""Where a stop list goes: token ids for control tokens, a request default for plain text.

vLLM has no server-side stop strings. It matches stop strings on text from which special tokens were removed, so a
control token can only be stopped on by its id; a plain string can only be added to the request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from migrate.findings import Ledger, Status
from migrate.gguf.vocab import CONTROL
from migrate.ollama.model import Parameter

NO_ESCAPES = ("\\n", "\\t", "\\r")


@dataclass(frozen=True, slots=True)
class Stops:
    """`token_ids` are added to eos_token_id, `strings` to requests that bring no stop of their own."""

    token_ids: Sequence[int]
    strings: Sequence[str]


def map_stops(
    stop: Parameter | None, special: Mapping[str, tuple[int, int]], end_ids: Sequence[int], ledger: Ledger
) -> Stops:
    """Splits the stop list. `special` is `migrate.gguf.eog.special_tokens`, `end_ids` the ids that stop anyway."""
    ids: list[int] = []
    strings: list[str] = []
    for text in dict.fromkeys(stop.value if stop else ()):
        token = special.get(text)
        source = f"{text!r} ({stop.origin})" if stop else ""
        if not text:
            ledger.add("PARAMETER stop", Status.DROPPED, source, "", "an empty string stops nothing")
        elif token and token[0] in end_ids:
            ledger.add("PARAMETER stop", Status.EXACT, source, f"eos_token_id {token[0]}", "ends a generation anyway")
        elif token and token[1] == CONTROL:
            ids.append(token[0])
            ledger.add(
                "PARAMETER stop",
                Status.EQUIVALENT,
                source,
                f"eos_token_id {token[0]}",
                "a control token: vLLM removes it from the text, so it is stopped on by id",
            )
        else:
            strings.append(text)
            hidden = next((name for name, (_, kind) in special.items() if kind == CONTROL and name in text), None)
            if hidden:
                ledger.add(
                    "PARAMETER stop",
                    Status.APPROXIMATE,
                    source,
                    "request default (middleware)",
                    f"vLLM looks for it in text without {hidden}, so it fires only when the model spells that out; "
                    "Ollama does not print control tokens either",
                    _never_fires(text),
                )
                continue
            ledger.add(
                "PARAMETER stop",
                Status.EQUIVALENT,
                source,
                "request default (middleware)",
                "vLLM has no default stop strings; the bundle's middleware adds it to requests that send none, as a "
                "request's own list replaces the Modelfile's in Ollama",
                _never_fires(text),
            )
    return Stops(tuple(ids), tuple(strings))


def _never_fires(text: str) -> str:
    """A hint for stop strings that look like a mistake; they are kept as they are."""
    if text.startswith("[") and text.endswith("]") and '"' in text:
        return "looks like a list: Ollama takes it as one literal string, which never occurs"
    if len(text) > 1 and text[0] == text[-1] == "'":
        return "the single quotes are part of the string, so it never matches: remove them"
    if any(escape in text for escape in NO_ESCAPES):
        return "a Modelfile has no escapes: this is a backslash and a letter, not a line break"
    return ""
