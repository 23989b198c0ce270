"""Where Go's base64.StdEncoding finds an error: padding is wanted, line ends are skipped (encoding/base64, Go 1.26)."""

from __future__ import annotations

import re

_ALPHABET = re.compile(rb"[A-Za-z0-9+/\r\n]*")


def base64_error(data: bytes) -> int | None:
    """The input byte base64.StdEncoding complains about; None for what it can decode."""
    match = _ALPHABET.match(data)
    at = match.end() if match else 0
    plain = (at - data.count(b"\r", 0, at) - data.count(b"\n", 0, at)) % 4
    if at == len(data):
        return at - plain if plain else None
    if data[at] != ord("=") or plain < 2:
        return at
    end = _skip_lines(data, at + 1)
    if plain == 2:
        if end == len(data):
            return end
        if data[end] != ord("="):
            return end - 1
        end = _skip_lines(data, end + 1)
    return end if end < len(data) else None


def _skip_lines(data: bytes, at: int) -> int:
    while at < len(data) and data[at] in b"\r\n":
        at += 1
    return at
