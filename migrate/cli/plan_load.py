"""The load that is planned for: lengths as given, or measured on the user's own requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migrate.errors import BadInput

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from migrate.plan.prefix import PrefixShare
    from migrate.plan.throughput import Load


def existing(ref: str | None) -> Path | None:
    """What is at the path `ref`; None when nothing is, or `ref` can be no path."""
    if ref is None:
        return None
    try:
        path = Path(ref).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):
        return None


def bundle_at(ref: str | None) -> Path | None:
    """The directory `ref` when `migrate convert` wrote it, else None."""
    from migrate.bundle.format import FILE_NAME

    path = existing(ref)
    return path if path is not None and (path / FILE_NAME).is_file() else None


def load_of(
    ref: str | None, requests: Path | None, prompt: int | None, output: int | None, context: int
) -> tuple[Load, PrefixShare | None, list[str]]:
    """Lengths of a request: as given, else measured on the user's own, else the documented defaults, in a `context`
    (tokens) that is too short for them two thirds of it and one."""
    from migrate.plan import throughput

    if requests is None:
        defaults_fit = context >= throughput.PROMPT_TOKENS + throughput.OUTPUT_TOKENS
        assumed_output = throughput.OUTPUT_TOKENS if defaults_fit else max(1, context // 3)
        answer = output or max(1, min(assumed_output, context - (prompt or 0)))
        given = throughput.Load(prompt or max(1, min(throughput.PROMPT_TOKENS, context - answer)), answer)
        defaults = [
            f"{name}: {value} tokens assumed"
            for name, value, asked in (("prompt", given.prompt, prompt), ("answer", given.output, output))
            if asked is None
        ]
        return given, None, defaults
    return _measured(ref, requests, prompt, output)


def _measured(
    ref: str | None, requests: Path, prompt: int | None, output: int | None
) -> tuple[Load, PrefixShare | None, list[str]]:
    from migrate.parity.facts import read_bundle
    from migrate.parity.traffic.read import read_requests
    from migrate.plan import prefix, throughput

    root, path = bundle_at(ref), existing(ref)
    bundle = read_bundle(root) if root is not None else None
    named = ref if path is None else None
    batch = read_requests(requests, facts=bundle.facts if bundle else None, model=named)
    encode = _Encoder(bundle.model if bundle else path)
    share = prefix.shared_prefixes(
        (encode(request.conversation), request.count) for request in batch.requests if request.conversation is not None
    )
    if not share.prompts:
        raise BadInput(f"{requests}: no conversations in it", hint="pass --prompt-tokens and --output-tokens")
    notes = [f"{requests.name}: {len(batch.requests)} distinct requests, {share.prompts} in all"]
    notes += encode.notes
    answers = [answer for request in batch.requests if (answer := _answer_length(request, encode)) is not None]
    mean = round(sum(length for length in answers) / len(answers)) if answers else None
    if output is None and mean is None:
        notes.append(f"no answers recorded: {throughput.OUTPUT_TOKENS} tokens each assumed")
    load = throughput.Load(
        prompt or max(1, round(share.tokens / share.prompts)),
        output or mean or throughput.OUTPUT_TOKENS,
        min(share.share, 0.99),
    )
    return load, share, [*notes, str(share)]


def _answer_length(request: Any, encode: _Encoder) -> int | None:
    """Tokens of a recorded answer; None when none was recorded."""
    if request.answer is None:
        return None
    text = str(request.answer.get("text") or "") + str(request.answer.get("thinking") or "")
    return max(1, encode.length(text)) if text else None


class _Encoder:
    """A conversation as token ids, with the template and the tokenizer of a model directory; else as text."""

    def __init__(self, directory: Path | None) -> None:
        self._tokenizer: Tokenizer | None = None
        self._template: str | None = None
        if directory is None or not (directory / "tokenizer.json").is_file():
            return
        from migrate.checkpoint.adopted import load

        self._tokenizer = load(directory / "tokenizer.json")
        template = directory / "chat_template.jinja"
        if template.is_file() and template.stat().st_size <= 1 << 20:
            self._template = template.read_text(encoding="utf-8")

    @property
    def notes(self) -> list[str]:
        """What of the lengths is estimated."""
        if self._tokenizer is None:
            return ["no tokenizer at hand: four characters are taken for a token"]
        return [] if self._template is not None else ["no chat template at hand: what it adds is not counted"]

    def __call__(self, conversation: Any) -> Any:
        text = self._text(conversation)
        return text if self._tokenizer is None else self._tokenizer.encode(text, add_special_tokens=False).ids

    def length(self, text: str) -> int:
        """Tokens of a text."""
        from migrate.plan.prefix import CHARACTERS_PER_TOKEN

        if self._tokenizer is None:
            return len(text) // CHARACTERS_PER_TOKEN
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _text(self, conversation: Any) -> str:
        import jinja2

        from migrate.chat_template.environment import render
        from migrate.engines.base import to_openai

        messages = to_openai(conversation.messages)
        if self._template is not None:
            try:
                return render(self._template, messages, tools=list(conversation.tools) or None)
            except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError):
                pass  # a conversation that the template refuses still has a length
        head = [json.dumps(tool, ensure_ascii=False) for tool in conversation.tools]
        return "\n".join([*head, *(f"{m.get('role')}\n{m.get('content') or ''}" for m in messages)])
