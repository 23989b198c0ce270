"""What must be replaced, what must not, and that nothing else happens to a request."""

from __future__ import annotations

import ipaddress
import json
import re
import string
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.parity.traffic import patterns
from migrate.parity.traffic.redact import MAX_DEPTH, REMOVED, Redactor

SALT = b"a test"

REPLACED = [
    # (kind, text, what must be gone)
    ("e-mail", "Write to ada.lovelace@mail.corp.org today.", "ada.lovelace@mail.corp.org"),
    ("e-mail", "from: o'brien+spam@sub.corp.co.uk, urgent", "brien+spam"),
    ("e-mail", "<max.müller@büro.de>", "müller@büro"),
    ("e-mail", "post@xn--bcher-kva.xn--p1ai", "xn--bcher-kva.xn--p1ai"),
    ("e-mail", "mailto:a@b.io?subject=x", "a@b.io"),
    ("phone", "call +49 30 901820 now", "901820"),
    ("phone", "call +49 (0)30/901820", "901820"),
    ("phone", "0049 30 901820", "901820"),
    ("phone", "(415) 555-2671", "555-2671"),
    ("phone", "415.555.2671", "555.2671"),
    ("phone", "1-800-555-0199", "555-0199"),
    ("phone", "030 / 901820-12", "901820"),
    ("phone", "06.12.34.56.78", "12.34.56.78"),
    ("phone", "07700 900123", "900123"),
    ("phone", "Tel. 01705551234", "01705551234"),
    ("IBAN", "to DE89 3704 0044 0532 0130 00 was paid", "3704 0044 0532"),
    ("IBAN", "DE89370400440532013000", "370400440532013000"),
    ("IBAN", "AT61 1904 3002 3457 3201 is hers", "1904 3002 3457"),
    ("IBAN", "gb82-west-1234-5698-7654-32", "1234-5698"),
    ("IBAN", "see AB12 or NO93 8601 1117 947 instead", "8601 1117"),
    ("card", "card 4111 1111 1111 1111 12/26", "4111 1111 1111 1111"),
    ("card", "5500-0055-5555-5559", "5500-0055-5555-5559"),
    ("card", "amex 371449635398431.", "371449635398431"),
    ("card", "12 4111 1111 1111 1111", "4111 1111 1111 1111"),
    ("social security number", "SSN 123-45-6789", "123-45-6789"),
    ("IP address", "host 203.0.113.9 is down", "203.0.113.9"),
    ("IP address", "192.168.178.20:8080", "192.168.178.20"),
    ("IP address", "via 2a02:8108:50bf::4f2d ok", "8108:50bf"),
    ("IP address", "fe80::1ff:fe23:4567:890a", "fe23:4567"),
    ("MAC address", "from 00:1A:2B:3C:4D:5E", "1A:2B:3C"),
    ("url user", "https://ada:s3cret@host.example/x", "ada:s3cret"),
    ("url user", "postgres://app:p%40ss@db:5432/x", "app:p%40ss"),
    ("url secret", "https://x.example/?a=1&access_token=abcdef&b=2", "abcdef"),
    ("url secret", "https://s3.example/k?X-Amz-Signature=0011aabb", "0011aabb"),
    ("token", "sk-proj-abcDEF1234567890abcdefGHI", "abcDEF1234567890"),
    ("token", "ghp_16C7e42F292c6912E7710c838347Ae178B4a", "16C7e42F292c6912"),
    ("token", "AKIAIOSFODNN7EXAMPLE", "IOSFODNN7EXAMPLE"),
    ("token", "xoxb-123456789012-abcdefABCDEF", "123456789012"),
    ("token", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVP", "hbGciOiJIUzI1NiJ9"),
    ("token", "Authorization: Bearer abcdef0123456789abcdef", "abcdef0123456789"),
    ("token", "wJalrXUtnFEMI/K7MDENG/bPxRfiCY3x8KEY1", "K7MDENG"),
    ("token", "550e8400-e29b-41d4-a716-446655440000", "e29b-41d4-a716"),
    ("secret", "OPENAI_API_KEY=abc123def", "abc123def"),
    ("secret", "export DB_PASSWORD='correct horse battery'", "horse battery"),
    ("secret", '{"password": "a b c d"}', "a b c d"),
    ("secret", 'json \\"api_key\\": \\"q1w2e3r4\\"', "q1w2e3r4"),
    ("secret", "dbPassword: hunter", "hunter"),
    ("secret", "my password is hunter2", "hunter2"),
    ("secret", "client_secret = 9f8e7d6c", "9f8e7d6c"),
    ("secret", "token=abcd1234efgh", "abcd1234efgh"),
    (
        "private key",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nMIIEpAIB\n-----END RSA PRIVATE KEY-----",
        "MIIEpAIB",
    ),
    ("private key", "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1r", "b3BlbnNzaC1r"),
    ("private key", "key: -----BEGIN PRIVATE KEY-----\\nMIIE\\n-----END PRIVATE KEY----- end", "MIIE"),
]

KEPT = [
    "What is the capital of Peru? It has 10,092,000 people, 3.14159 and 1e-9.",
    "In 1969-07-20 and on 01.12.2024, 01-12-2024, 01/12/2024, 20240512T101500Z at 12:30:45",
    "version 1.2.3, v10.0.19045, RFC 2606, ISO 8601, ISBN 978-3-16-148410-0",
    "call f(x, y) -> std::vector<int>::iterator; a::b; Foo::Bar",
    "localhost 127.0.0.1:11434, ::1, 0.0.0.0",
    "price: 4,111.11 EUR; order 123456789; total 1 234 567",
    "def key(row): return row[0]; monkey: 12345; max_tokens: 4096; keyboard=qwerty",
    "the password is wrong; a secret: patience; token: the smallest unit",
    "getUserByIdAndName some_function_name_with_many_words AbstractSingletonProxyFactoryBean",
    "hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M and registry.ollama.ai/library/llama3.2:3b",
    "https://docs.example.org/guide/page?lang=en&page=2#part",
    "/usr/share/ollama/.ollama/models/blobs and C:\\Users\\me",
    "@someone on a network, 5 @ 3, user@host",
    "Übersetze «naïve café» ins 日本語 🎉 <|im_end|> {{ .Prompt }} {% if x %}",
    "4111 1111 1111 1112 is no card, 1234567890123 neither, XY89 3704 2044 2532 2130 no IBAN",
    "sk-learn and sk-toolkit-of-many-words; a hf_transfer, gho st",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16",
    "| 10 | 20 | 30 |\n|----|----|----|",
    "0.1 0.25 0.0012345678 00:15 000",
]


@pytest.mark.parametrize(("kind", "text", "gone"), REPLACED, ids=[f"{k}-{i}" for i, (k, _, _) in enumerate(REPLACED)])
def test_replaced(kind: str, text: str, gone: str) -> None:
    redactor = Redactor(SALT)
    made = redactor.text(text)
    assert gone in text
    assert gone not in made
    assert redactor.counts[kind] >= 1
    assert not any(word in made for word in re.findall(r"[A-Za-z0-9]{6,}", gone))


@pytest.mark.parametrize("text", KEPT)
def test_kept(text: str) -> None:
    redactor = Redactor(SALT)
    assert redactor.text(text) == text
    assert not redactor.counts


def test_placeholders_belong_to_nobody() -> None:
    redactor = Redactor(SALT)
    for kind, text, _ in REPLACED:
        made = redactor.text(text)
        if kind == "e-mail":
            assert patterns.EMAIL.search(text)
            assert re.search(r"@[\w-]+\.example\b", made)
        if kind == "card":
            digits = "".join(re.findall(r"[0-9]", made))
            assert not patterns.luhn(digits[:16])
        if kind == "IP address":
            address = ipaddress.ip_address(re.findall(r"[0-9a-fA-F:.]{6,}", made)[0].removesuffix(":8080"))
            assert address in ipaddress.ip_network("198.18.0.0/15" if address.version == 4 else "2001:db8::/32")
    assert redactor.text("DE89370400440532013000").startswith("DE00")
    assert redactor.text("123-45-6789").startswith("9")
    assert redactor.text("00:1A:2B:3C:4D:5E").startswith("02:")


def test_same_value_same_placeholder() -> None:
    redactor = Redactor(SALT)
    first, second = redactor.text("4111 1111 1111 1111"), redactor.text("4111111111111111")
    assert first.replace(" ", "") == second
    assert redactor.text("Ada@corp.io") == redactor.text("Ada@corp.io")
    assert redactor.text("+49 30 901820").replace(" ", "") == redactor.text("+4930901820")
    assert Redactor(SALT).text("a@corp.io") == redactor.text("a@corp.io")
    assert Redactor(b"other").text("a@corp.io") != redactor.text("a@corp.io")
    assert Redactor().text("ada.lovelace@corp.io") != Redactor().text("ada.lovelace@corp.io")


def test_a_request() -> None:
    """What the server reads stays; every string is looked at, keys too."""
    body = {
        "model": "hf.co/ada/Model-7B-Q4-3x8A-GGUF:Q4_K_M",
        "messages": [
            {"role": "user", "content": "I am ada@corp.io", "images": ["aGVsbG8="]},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "id": "call_k3J9x0aB",
                        "type": "function",
                        "function": {
                            "name": "login",
                            "arguments": {"password": "plain words", "pin": 1234, "n": 12345},
                        },
                    }
                ],
            },
            {"role": "tool", "content": '{"token": "abcd1234efgh"}', "tool_name": "login"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "login",
                    "parameters": {"type": "object", "properties": {"password": {"type": "string"}}},
                },
            }
        ],
        "options": {"temperature": 0.5, "seed": 4111111111111111, "stop": ["ada@corp.io"]},
        "seed": 4111111111111111,
        "context": [1, 2, 3],
        "card": 4111111111111111,
        "ada@corp.io": True,
        "stream": False,
        "keep_alive": "5m",
    }
    made = Redactor(SALT).body(body)
    text = json.dumps(made)
    assert made["model"] == body["model"]
    assert [m["role"] for m in made["messages"]] == ["user", "user", "assistant", "tool"]
    assert made["messages"][0]["images"] == [REMOVED]
    assert made["messages"][1]["content"][0]["image_url"] == {"url": REMOVED}
    call = made["messages"][2]["tool_calls"][0]
    assert (call["id"], call["type"], call["function"]["name"]) == ("call_k3J9x0aB", "function", "login")
    arguments = call["function"]["arguments"]
    assert arguments["password"] != "plain words"
    assert isinstance(arguments["pin"], int)
    assert arguments["pin"] != 1234
    assert arguments["n"] == 12345
    assert made["tools"] == body["tools"]
    assert made["options"]["temperature"] == 0.5
    assert made["options"]["seed"] == made["seed"] == 4111111111111111
    assert made["card"] != 4111111111111111
    assert made["context"] == [REMOVED]
    assert made["keep_alive"] == "5m"
    assert made["stream"] is False
    for gone in ("ada@corp.io", "aGVsbG8", "AAAA", "plain words", "abcd1234efgh"):
        assert gone not in text


def test_a_model_that_hides_something() -> None:
    assert "corp.io" not in json.dumps(Redactor(SALT).body({"model": "ada@corp.io"}))


def test_deep_json_is_cut() -> None:
    value: Any = "ada@corp.io"
    for _ in range(500):
        value = [value]
    made = Redactor(SALT).value(value)
    depth = 0
    while isinstance(made, list):
        made, depth = made[0], depth + 1
    assert made is None
    assert depth == MAX_DEPTH + 1


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "sk-",
        "1 ",
        "a@",
        "a.b@",
        "DE89 ",
        "-----BEGIN PRIVATE KEY-----",
        "0:",
        "x://",
        "password=",
        "+1",
        "aB3",
        "4",
        "x@" + "a." * 50,
        "'",
        "data:",
        "4 4-",
        "token ",
        "key:'",
        'password:"a',
        "?key=",
        "eyJ",
        "0 1",
        "(0",
        "=",
        "\\",
    ],
)
def test_time_is_in_proportion_to_length(piece: str) -> None:
    """100 kB of what makes patterns backtrack; quadratic time would be minutes."""
    redactor = Redactor(SALT)
    text = piece * (100_000 // len(piece))
    started = time.process_time()
    redactor.text(text)
    assert time.process_time() - started < 3


_SECRETS = st.sampled_from([(text, gone) for _, text, gone in REPLACED])
_WORDS = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="-=:\"'\\"), max_size=80)


@settings(max_examples=150, deadline=None)
@given(_WORDS, _SECRETS, _WORDS)
def test_found_wherever_it_stands(before: str, secret: tuple[str, str], after: str) -> None:
    text, gone = secret
    made = Redactor(SALT).text(f"{before}\n{text}\n{after}")
    assert gone not in made


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300), st.lists(_SECRETS, max_size=3))
def test_bounded_and_settled(text: str, secrets: list[tuple[str, str]]) -> None:
    """The text grows by a few characters for each value at most, and what was replaced once with an address that
    belongs to nobody is not replaced again."""
    whole = text + "\n".join(row[0] for row in secrets)
    redactor = Redactor(SALT)
    made = redactor.text(whole)
    assert len(made) <= len(whole) + 24 * sum(redactor.counts.values())
    assert Redactor(SALT).text(whole) == made
    again = Redactor(b"another")
    again.text(made)
    for kind in ("e-mail", "IP address", "MAC address", "social security number", "IBAN"):
        if set(redactor.counts) <= {kind}:
            assert not again.counts[kind]
    if not redactor.counts:
        assert made == whole


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(string.printable, max_size=10), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(_JSON)
def test_json_keeps_its_shape(value: Any) -> None:
    made = Redactor(SALT).value(value)
    json.dumps(made)

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, dict):
            return isinstance(b, dict) and len(b) <= len(a)
        if isinstance(a, list):
            return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
        return type(a) is type(b)

    assert same(value, made)
