"""Personal data and secrets out of requests, before they are written or sent anywhere.

Found by pattern: e-mail addresses, phone numbers, IBANs (length and checksum), card numbers (Luhn), US social security
numbers, IP and MAC addresses, user info and secret parameters of URLs, keys and tokens (by prefix, by the name before
them, by their randomness), private keys, and the values of fields that are called password, api_key and the like.

**Not found**: names of people, companies and places, postal addresses, dates of birth, customer numbers, phone numbers
written without any sign of being one (`612345678`), `name (at) host`, and whatever is told in words only. Look at the
result before you pass it on.

A table of our own, because nothing ready fits: scrubadub's last release is of 2023, brings scikit-learn and puts
`{{EMAIL}}` in place of text; Presidio needs a language model per language; detect-secrets (2024) reads source code;
phonenumbers wants to know the country of a national number. Here the placeholder must look like what it stands for: a
letter becomes a letter, a digit a digit, so that a prompt stays about as hard for a template and a tokenizer. The same
value gets the same placeholder under one salt. Placeholders belong to nobody where that can be had: e-mail addresses
end in `.example` (RFC 2606), IPv6 addresses lie in 2001:db8::/32 (RFC 3849), IPv4 addresses in 198.18.0.0/15 (RFC
2544), MAC addresses begin with 02 (locally administered), social security numbers with 9 (never given out), IBANs and
card numbers have a wrong checksum. Phone numbers are random digits.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import secrets
import string
from collections import Counter
from collections.abc import Callable
from typing import Any

from migrate.parity.traffic import patterns
from migrate.parity.traffic.patterns import Kind

SALT_BYTES = 32
MAX_DEPTH = 64
"""Of nested JSON; what lies deeper is cut off (None)."""

REMOVED = "removed"
"""Stands for what has no text to be looked at: images, audio, and token ids of earlier turns (`context`)."""

_NUMBERS = frozenset({"options", "seed", "created", "num_predict", "max_tokens"})
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,511}")


class Redactor:
    """Replaces what the table finds. Without `salt` a random one is made and kept nowhere: with the salt, short values
    such as phone numbers could be found again by trying them all. `counts` tells how often each kind was replaced."""

    def __init__(self, salt: bytes | None = None) -> None:
        self._salt = secrets.token_bytes(SALT_BYTES) if salt is None else hashlib.sha256(salt).digest()
        self.counts: Counter[str] = Counter()

    def text(self, text: str) -> str:
        """The text with placeholders. Takes time in proportion to its length."""
        found: list[tuple[int, int, Kind]] = []
        taken = bytearray(len(text))
        folded = text.casefold()
        for kind in patterns.KINDS:
            for start, end in patterns.spans(kind, text, folded):
                if not any(taken[start:end]):
                    taken[start:end] = b"\1" * (end - start)
                    found.append((start, end, kind))
        if not found:
            return text
        pieces, at = [], 0
        for start, end, kind in sorted(found, key=lambda row: row[0]):
            pieces += [text[at:start], self._placeholder(kind.name, text[start:end])]
            at = end
            self.counts[kind.name] += 1
        return "".join(pieces) + text[at:]

    def body(self, body: dict[str, Any]) -> dict[str, Any]:
        """A request with every string in it redacted, but for the name of its model."""
        model = body.get("model")
        redacted: dict[str, Any] = self.value(body)
        if isinstance(model, str) and _MODEL.fullmatch(model):
            redacted["model"] = model
        return redacted

    def value(self, value: Any, *, depth: int = 0) -> Any:
        """JSON with every string in it redacted, keys too. Images, audio and token ids are taken out as a whole;
        whole numbers that could be a card's are replaced, other numbers stay."""
        if depth > MAX_DEPTH:
            return None
        if isinstance(value, str):
            return REMOVED if patterns.DATA_URL.match(value) else self.text(value)
        if isinstance(value, list | tuple):
            return [self.value(item, depth=depth + 1) for item in value]
        if isinstance(value, dict):
            return {self.text(str(key)): self._member(str(key), item, depth + 1) for key, item in value.items()}
        if isinstance(value, int) and not isinstance(value, bool) and 10**12 <= value < 10**19:
            return int(self.text(str(value)))
        return value

    def _member(self, key: str, value: Any, depth: int) -> Any:
        if key in ("images", "context") and isinstance(value, list) and value:
            return [REMOVED]
        if key in ("image_url", "input_audio", "file") and isinstance(value, dict) and value:
            return {"url": REMOVED}
        if patterns.SECRET_FIELD.fullmatch(key) and isinstance(value, str | int) and value and value is not True:
            self.counts["secret"] += 1
            made = self._placeholder("secret", str(value))
            return made if isinstance(value, str) else int(f"-{made[1:]}" if value < 0 else made)
        if key in _NUMBERS:
            if isinstance(value, int | float):
                return value
            if isinstance(value, dict):
                return {
                    self.text(str(k)): v if isinstance(v, int | float) else self.value(v, depth=depth + 1)
                    for k, v in value.items()
                }
        return self.value(value, depth=depth)

    def _placeholder(self, name: str, found: str) -> str:
        """A placeholder that is not by chance the value itself."""
        same = _SAME.get(name, str)(found).encode("utf-8", "surrogatepass")
        make = _MAKERS.get(name, _shape)
        for attempt in range(8):
            key = hashlib.shake_256(b"\0".join((self._salt, name.encode(), bytes([attempt]), same)))
            made = make(found, key.digest(2 * len(found) + 64))
            if made != found:
                return made
        return "".join(_like(c, c in "0aA") for c in found)


def _shape(found: str, key: bytes) -> str:
    """A letter for a letter (same case), a digit for a digit, the rest as it is."""
    return "".join(_like(c, key[i]) for i, c in enumerate(found))


def _like(character: str, byte: int) -> str:
    if character.isdigit():
        return str(byte % 10)
    if character.isalpha():
        letters = string.ascii_uppercase if character.isupper() else string.ascii_lowercase
        return letters[byte % 26]
    return character


def _email(found: str, key: bytes) -> str:
    """The host becomes one label, so that no shorter address is left in it."""
    local, _, domain = found.rpartition("@")
    host = domain.rpartition(".")[0].replace(".", "-")
    return f"{_shape(local, key)}@{_shape(host, key[len(local) :])}.example"


def digits_of(found: str) -> str:
    return "".join(c for c in found if c.isdigit())


def _in_order(found: str, key: bytes) -> str:
    """Digits by their number in the value, so that two spellings of one number get the same digits."""
    digits = iter(key)
    return "".join(str(next(digits) % 10) if c.isdigit() else c for c in found)


def _card(found: str, key: bytes) -> str:
    """Begins with 9, which no card does."""
    made = "9" + _in_order(found, key)[1:]
    if not patterns.luhn(made):
        return made
    last = max(i for i, c in enumerate(made) if c.isdigit())
    return made[:last] + str((int(made[last]) + 1) % 10) + made[last + 1 :]


def _iban(found: str, key: bytes) -> str:
    """Country kept, check digits 00, which no IBAN has."""
    compact = iter(key)
    return found[:2] + "00" + "".join(_like(c, next(compact)) if c.isalnum() else c for c in found[4:])


def _ssn(found: str, key: bytes) -> str:
    return "9" + _in_order(found, key)[1:]


def _ipv4(found: str, key: bytes) -> str:
    return f"198.{18 + key[0] % 2}.{key[1]}.{key[2] % 254 + 1}"


def _ipv6(found: str, key: bytes) -> str:
    groups = max(1, sum(bool(g) for g in found.split(":")) - 2)
    return "2001:db8::" + ":".join(f"{256 * key[2 * i] + key[2 * i + 1]:x}" for i in range(min(groups, 5)))


def _ip(found: str, key: bytes) -> str:
    return _ipv6(found, key) if ":" in found else _ipv4(found, key)


def _mac(found: str, key: bytes) -> str:
    pairs = iter(key)
    return "02" + "".join(c if c in ":-" else f"{next(pairs) % 16:x}" for c in found[2:])


def _token(found: str, key: bytes) -> str:
    """What tells the kind of a token stays: `sk-`, `ghp_`, `AKIA`."""
    prefix = patterns.PREFIX.match(found)
    kept = prefix.end() if prefix else 0
    return found[:kept] + _shape(found[kept:], key)


def _pem(found: str, key: bytes) -> str:
    lines = found.splitlines(keepends=True)
    middle = "".join(lines[1:-1])
    return lines[0] + _shape(middle, key) + lines[-1] if len(lines) > 2 and "-----" in lines[-1] else REMOVED


def _address(found: str) -> str:
    return ipaddress.ip_address(found).compressed


_MAKERS: dict[str, Callable[[str, bytes], str]] = {
    "private key": _pem,
    "token": _token,
    "e-mail": _email,
    "IBAN": _iban,
    "card": _card,
    "social security number": _ssn,
    "IP address": _ip,
    "MAC address": _mac,
    "phone": _in_order,
}
"""kind -> its placeholder, of the found text and keyed bytes; `_shape` for all others."""

_SAME: dict[str, Callable[[str], str]] = {
    "e-mail": str.lower,
    "IBAN": lambda found: "".join(c for c in found if c.isalnum()).upper(),
    "card": digits_of,
    "social security number": digits_of,
    "phone": digits_of,
    "IP address": _address,
    "MAC address": lambda found: found.lower().replace("-", ":"),
}
"""kind -> what makes two spellings one value."""
