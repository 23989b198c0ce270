"""vLLM's /v1/completions: the body of a request with a prompt of token ids, and the pieces of its answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from migrate.gateway.catalog import ServedModel
from migrate.gateway.sampling import Sampling, structured
from migrate.gateway.tokens import Tokens
from migrate.gateway.types import Format
from migrate.gateway.upstreams import BROKEN, UpstreamError

_ID = "token_id:"


@dataclass(frozen=True, slots=True)
class Piece:
    """Text and its logprobs; the last piece has `usage` (tokens of prompt and answer) and a reason, and no text."""

    text: str = ""
    logprobs: Sequence[Mapping[str, Any]] = ()
    done_reason: str = ""
    usage: tuple[int, int] | None = None


def body(
    model: ServedModel,
    ids: Sequence[int],
    sampling: Sampling,
    wanted: Format,
    top_logprobs: int | None,
    *,
    shift: bool = True,
) -> dict[str, Any]:
    """Every sampling field is there, so that no default of the server's comes in between."""
    request: dict[str, Any] = {
        "model": model.served_name,
        "prompt": list(ids),
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": max_tokens(model, len(ids), sampling, shift=shift),
        **sampling.body,
        **structured(wanted),
    }
    if top_logprobs is not None:
        request |= {"logprobs": max(top_logprobs, 1), "return_tokens_as_token_ids": True}
    return request


def max_tokens(model: ServedModel, prompt: int, sampling: Sampling, *, shift: bool = True) -> int:
    """The longest answer. Where Ollama would shift its context and go on, the server's context is the end; without
    shifting, num_ctx is."""
    room = (model.max_model_len if shift else sampling.num_ctx) - prompt
    return max(min(sampling.num_predict, room) if sampling.num_predict > 0 else room, 1)


async def pieces(
    model: ServedModel, events: AsyncIterator[Mapping[str, Any]], top_logprobs: int | None
) -> AsyncGenerator[Piece]:
    """Raises UpstreamError when an event is not as vLLM's are, or the answer ends without its end."""
    reason, usage = "", None
    held: list[Mapping[str, Any]] = []  # of tokens whose text vLLM holds back: it may be the beginning of a stop string
    async for event in events:
        try:
            for choice in event.get("choices") or ():
                text = choice.get("text") or ""
                found = (
                    _logprobs(model.tokens, choice.get("logprobs"), top_logprobs) if top_logprobs is not None else ()
                )
                if choice.get("finish_reason"):
                    reason = done_reason(choice["finish_reason"])
                held += found
                if text:
                    yield Piece(text, held)
                    held = []
            if event.get("usage"):
                usage = (int(event["usage"]["prompt_tokens"]), int(event["usage"]["completion_tokens"]))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise UpstreamError(500, BROKEN.format(detail=f"an event is not vLLM's: {error!r}")) from None
    if usage is None or not reason:
        raise UpstreamError(500, BROKEN.format(detail="the answer of the model server has no end"))
    yield Piece(done_reason=reason, usage=usage)


def done_reason(finish_reason: str) -> str:
    """vLLM's finish_reason as Ollama's: it has no others than these two for an answer that ran."""
    if finish_reason in ("abort", "error"):
        raise UpstreamError(500, BROKEN.format(detail=f"the model server ended the answer: {finish_reason}"))
    return "length" if finish_reason == "length" else "stop"


def _logprobs(tokens: Tokens, given: Mapping[str, Any] | None, top: int | None) -> list[dict[str, Any]]:
    """As Ollama has them: without the token that ended the answer, which has no text."""
    found: list[dict[str, Any]] = []
    if not given:
        return found
    alternatives = given.get("top_logprobs") or []
    for i, (name, value) in enumerate(zip(given["tokens"], given["token_logprobs"], strict=True)):
        entry = _token(tokens, name, value)
        if not entry["token"] and _id(name) in tokens.vocabulary.special:
            continue
        if top:
            ranked = sorted((alternatives[i] or {}).items(), key=lambda pair: -pair[1])[:top]
            entry["top_logprobs"] = [_token(tokens, other, logprob) for other, logprob in ranked]
        found.append(entry)
    return found


def _id(name: str) -> int:
    return int(name.removeprefix(_ID))


def _token(tokens: Tokens, name: str, logprob: float) -> dict[str, Any]:
    """Special tokens have no text. Bytes are those of the text, in which what is no UTF-8 was replaced."""
    number = _id(name)
    vocabulary = tokens.vocabulary
    text = "" if number in vocabulary.special else vocabulary.pieces.get(number, b"").decode("utf-8", "replace")
    entry: dict[str, Any] = {"token": text, "logprob": logprob}
    if text:
        entry["bytes"] = list(text.encode())
    return entry
