"""The table of what `redact` looks for: a pattern per kind, and what a match has to stand up to.

Every pattern is bounded, or possessive behind a lookbehind that lets it start once in a run: time grows with the length
of the text only.
"""

from __future__ import annotations

import ipaddress
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One row. `group` is what is replaced. `measure` says how many characters of the match are one: 0 is none at all.

    `retry`: after a match that is none, another may begin inside it (only for patterns of bounded length). `needs`: a
    text without any of these (small letters) has none; looking for them is a hundred times faster than the pattern.
    """

    name: str
    pattern: re.Pattern[str]
    group: int = 0
    measure: Callable[[str], int] = len
    retry: bool = False
    needs: tuple[str, ...] = ()


def spans(kind: Kind, text: str, folded: str | None = None) -> Iterator[tuple[int, int]]:
    """(start, end) of everything of one kind, in order. `folded` is `text.casefold()`."""
    if kind.needs:
        folded = text.casefold() if folded is None else folded
        if not any(part in folded for part in kind.needs):
            return
    at = 0
    while match := kind.pattern.search(text, at):
        start, end = match.span(kind.group)
        length = kind.measure(text[start:end])
        if length:
            yield start, start + length
            at = max(start + length, match.start() + 1)
        elif kind.retry:
            at = match.start() + 1
        else:
            at = max(match.end(), match.start() + 1)


def _if(test: Callable[[str], bool]) -> Callable[[str], int]:
    return lambda found: len(found) if test(found) else 0


_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def luhn(found: str) -> bool:
    """ISO/IEC 7812: 13 to 19 digits with a check digit. Separators do not count."""
    return _luhn([int(c) for c in found if c.isdigit()])


def _luhn(digits: list[int]) -> bool:
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    return (sum(digits[::-2]) + sum(_DOUBLED[d] for d in digits[-2::-2])) % 10 == 0


def _card_length(found: str) -> int:
    """The longest part from the start, up to the end of a group of digits, that is a card number."""
    places = [i for i, c in enumerate(found) if c.isdigit()]
    digits = [int(found[i]) for i in places]
    for count in range(len(digits), 12, -1):
        end = places[count - 1] + 1
        if not found[end : end + 1].isdigit() and _luhn(digits[:count]):
            return end
    return 0


def _table(text: str) -> dict[str, int]:
    return {entry[:2]: int(entry[2:]) for entry in text.split()}


IBAN_LENGTHS = _table(
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 "
    "EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 "
    "JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 "
    "NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 "
    "TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30"
)
"""Characters of an IBAN by country (the registry of ISO 13616)."""


def _iban_length(found: str) -> int:
    """The part from the start that has its country's length and leaves 1 when divided by 97."""
    wanted = IBAN_LENGTHS.get(found[:2].upper(), 0)
    places = [i for i, c in enumerate(found) if c.isalnum()]
    if not wanted or len(places) < wanted:
        return 0
    if len(places) > wanted and places[wanted] == places[wanted - 1] + 1:
        return 0
    compact = "".join(found[i] for i in places[:wanted]).upper()
    number = int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4]))
    return places[wanted - 1] + 1 if number % 97 == 1 else 0


_OURS = (ipaddress.ip_network("198.18.0.0/15"), ipaddress.ip_network("2001:db8::/32"))


def _is_ip(found: str) -> bool:
    try:
        address = ipaddress.ip_address(found)
    except ValueError:
        return False
    if len(found) < 5 or address.is_loopback or address.is_unspecified:
        return False
    return not any(address.version == network.version and address in network for network in _OURS)


_DATE = re.compile(r"\(?[0-3]?\d[ ./-]{1,3}\d{1,2}[ ./-]{1,3}(?:19|20)\d\d(?:[ -]\d{2,4})*")


def _is_phone(found: str) -> bool:
    return 8 <= sum(c.isdigit() for c in found) <= 15 and not _DATE.fullmatch(found)


def _is_random(found: str) -> bool:
    """Letters and digits in a mix that no word has: class changes in a quarter of the places, 3 bits per character."""
    classes = ["d" if c.isdigit() else "u" if c.isupper() else "l" for c in found if c.isalnum()]
    if sum(c == "d" for c in classes) < 3 or len(set(classes)) < 2:
        return False
    changes = sum(a != b for a, b in itertools.pairwise(classes))
    counts = Counter(found).values()
    bits = -sum(n / len(found) * math.log2(n / len(found)) for n in counts)
    return changes >= len(classes) / 4 and bits >= 3


def _is_value(found: str) -> bool:
    return any(not c.isalpha() for c in found)


_PREFIXES = (
    r"sk-(?:proj-|svcacct-|ant-(?:api\d\d-)?|or-v1-)?|sk_(?:live|test)_|rk_(?:live|test)_|pk_(?:live|test)_|whsec_|"
    r"gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|xapp-|AKIA|ASIA|AIza|ya29\.|hf_|npm_|pypi-|dop_v1_|SG\.|"
    r"shpat_|lin_api_|dckr_pat_|nvapi-|gsk_|r8_|eyJ"
)
PREFIX = re.compile(_PREFIXES)
_START = r"(?:(?<![A-Za-z0-9])|(?<=(?-i:[a-z]))(?=(?-i:[A-Z])))"
"""A word begins here, also inside API_KEY and dbPassword."""
_PASSWORD = r"(?:password|passwd|passwort|kennwort|passphrase|pwd)"
_NAMES = (
    r"(?:(?:api|access|secret|private|auth|client|refresh|session|bearer|id|account|signing|encryption)[_-]?"
    r"(?:key|token|secret)|secret|credentials?|authorization)"
)
SECRET_FIELD = re.compile(
    r"(?:[a-z0-9]{1,32}[_-]){0,4}"
    r"(?:(?:api|access|secret|private|auth|client|refresh|session|bearer)[_-]?(?:key|token|secret)"
    r"|token|secret|pin|password|passwd|passphrase|pwd|authorization)",
    re.IGNORECASE,
)
"""Names of JSON fields whose value is a secret whatever it looks like."""
DATA_URL = re.compile(r"data:[a-z0-9.+/-]{0,80}(?:;[a-z0-9=-]{1,40}){0,3};base64,", re.IGNORECASE)
EMAIL = re.compile(
    r"(?<![\w.%+'-])[\w.%+'-]{1,128}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,16}"
    r"(?!example(?![\w-]))(?:xn--[a-z0-9-]{2,59}|[^\W\d_]{2,24})(?![\w-])"
)
_PHONE = re.compile(
    r"(?<![\w.+-])(?:"
    r"(?:\+|00)[1-9](?:[ ()./\u00a0-]{0,3}\d){6,14}"  # international
    r"|(?:1[ .-])?\(?[2-9]\d{2}\)?[ .-]{1,2}\d{3}[ .-]\d{4}"  # North America
    r"|\(?0\d{1,5}\)?[ ./-]{1,3}\d{2,8}(?:[ .-]\d{2,6}){0,4}"  # national, with a leading 0
    r"|0\d{9,10}"
    r")(?![\w-])"
)
_DASHED = r"(?:[^-]|-(?!----)){1,65536}+"

_PASSWORD_PARTS = ("passw", "kennwort", "passphrase", "pwd")
_SECRET_PARTS = ("key", "token", "secret", "credential", "authorization", "signature")

KINDS = (
    Kind(
        "private key",
        re.compile(
            rf"-----BEGIN [A-Z ]{{0,30}}PRIVATE KEY(?: BLOCK)?-----{_DASHED}"
            r"(?:-----END [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----)?"
        ),
        needs=("private key",),
    ),
    Kind("url user", re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://([^\s/@?#]{1,1024})@", re.IGNORECASE), 1, needs=("://",)),
    Kind(
        "url secret",
        re.compile(
            rf"[?&;](?:{_NAMES}|{_PASSWORD}|key|token|signature|sig|auth|code|jwt|x-amz-[a-z-]{{1,20}})="
            r"([^\s&#\"'<>]++)",
            re.IGNORECASE,
        ),
        1,
        needs=("=",),
    ),
    Kind(
        "token",
        re.compile(rf"(?<![A-Za-z0-9])(?:{_PREFIXES})[A-Za-z0-9_.+/=-]{{12,}}+"),
        measure=_if(lambda found: any(c.isdigit() for c in found) or any(c.isupper() for c in found[4:])),
    ),
    Kind(
        "token",
        re.compile(r"\b(?:bearer|basic|token)[ \t]{1,4}([A-Za-z0-9_.+/=~-]{16,}+)", re.IGNORECASE),
        1,
        measure=_if(_is_value),
        needs=("bearer", "basic", "token"),
    ),
    Kind(
        "secret",
        re.compile(
            rf"{_START}(?:{_NAMES}|{_PASSWORD}|token)\\?[\"']?[ \t]{{0,4}}[:=][ \t]{{0,4}}"
            r"\\?([\"'])((?:(?!\1)[^\n\\]){1,512})\\?\1",
            re.IGNORECASE,
        ),
        2,
        needs=(*_SECRET_PARTS, *_PASSWORD_PARTS),
    ),
    Kind(
        "secret",
        re.compile(rf"{_START}{_PASSWORD}[\"']?[ \t]{{0,4}}[:=][ \t]{{0,4}}[\"']?([^\s\"',;]{{3,}}+)", re.IGNORECASE),
        1,
        needs=_PASSWORD_PARTS,
    ),
    Kind(
        "secret",
        re.compile(rf"{_START}{_PASSWORD}[ \t]{{1,4}}(?:is|ist|was|lautet)[ \t:]{{1,4}}([^\s]{{4,}}+)", re.IGNORECASE),
        1,
        measure=_if(lambda found: any(c.isdigit() for c in found)),
        needs=_PASSWORD_PARTS,
    ),
    Kind(
        "secret",
        re.compile(
            rf"{_START}{_NAMES}\\?[\"']?[ \t]{{0,4}}[:=][ \t]{{0,4}}\\?[\"']?([^\s\"',;\\]{{4,}}+)", re.IGNORECASE
        ),
        1,
        measure=_if(_is_value),
        needs=_SECRET_PARTS,
    ),
    Kind(
        "secret",
        re.compile(
            rf"{_START}(?:key|token|signature)\\?[\"']?[ \t]{{0,4}}[:=][ \t]{{0,4}}\\?[\"']?([A-Za-z0-9_.+/=-]{{8,}}+)",
            re.IGNORECASE,
        ),
        1,
        measure=_if(lambda found: sum(c.isdigit() for c in found) >= 2 and any(c.isalpha() for c in found)),
        needs=_SECRET_PARTS,
    ),
    Kind("e-mail", EMAIL, needs=("@",)),
    Kind(
        "IBAN",
        re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ \u00a0-]?[A-Za-z0-9]){11,30}"),
        measure=_iban_length,
        retry=True,
    ),
    Kind("card", re.compile(r"(?<![\d.])[2-6](?:[ \u00a0-]?\d){12,18}(?!\d)"), measure=_card_length, retry=True),
    Kind("social security number", re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")),
    Kind(
        "MAC address",
        re.compile(r"(?<![\w:-])(?!02)[0-9A-Fa-f]{2}(?:([:-])[0-9A-Fa-f]{2})(?:\1[0-9A-Fa-f]{2}){4}(?![\w:-])"),
        needs=(":", "-"),
    ),
    Kind(
        "IP address", re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)"), measure=_if(_is_ip), needs=(".",)
    ),
    Kind(
        "IP address",
        re.compile(r"(?<![\w:.])(?=[0-9A-Fa-f:]{2,39}(?![\w:]))[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,8}"),
        measure=_if(_is_ip),
        needs=(":",),
    ),
    Kind("phone", _PHONE, measure=_if(_is_phone), retry=True),
    Kind("token", re.compile(r"(?<![A-Za-z0-9_+/=-])[A-Za-z0-9_+/-]{20,}+={0,2}"), measure=_if(_is_random)),
)
"""In the order of their claim: a place that one row has taken is left alone by the later ones."""
