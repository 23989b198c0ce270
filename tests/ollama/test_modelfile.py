"""The Modelfile parser, held to what Ollama's own makes of 802 real files, and to its grammar."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import unicodedata
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import ModelfileError
from migrate.ollama import options
from migrate.ollama.model import OllamaModel
from migrate.ollama.modelfile import COMMANDS, Command, decode, model_warnings, parse, warnings

QUOTES = '"""'


@pytest.fixture(scope="module")
def corpus(shared: Path) -> list[dict[str, Any]]:
    lines = (shared / "corpus" / "modelfiles.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_every_real_file_as_ollama_reads_it(corpus: list[dict[str, Any]]) -> None:
    assert len(corpus) == 802
    for row in corpus:
        if "error" not in row:
            assert [{"name": c.name, "args": c.args} for c in parse(row["modelfile"])] == row["commands"], row["id"]
            continue
        with pytest.raises(ModelfileError) as caught:
            parse(row["modelfile"])
        assert caught.value.hint
        if counted := re.match(r"\(line (\d+)\)", row["error"]):
            assert caught.value.line == int(counted[1]), row["id"]


def test_as_many_real_files_have_bad_parameters_as_ollama_says(corpus: list[dict[str, Any]]) -> None:
    words = {command.lower() for command in COMMANDS} | {"model"}
    refused = set()
    for row in corpus:
        for command in row.get("commands", ()):
            if command["name"] not in words:
                try:
                    options.check(command["name"], command["args"])
                except ModelfileError:
                    refused.add(row["id"])
    assert len(refused) == 21


def args_of(text: str, name: str) -> list[str]:
    return [c.args for c in parse(f"FROM x\n{text}") if c.name == name]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("SYSTEM hi # not a comment", "hi # not a comment"),
        ("SYSTEM   two  blanks\t\tinside   ", "two  blanks\t\tinside"),
        ("  system lower case and indented", "lower case and indented"),
        ("SYSTEM \nSYSTEM", ""),
        ('SYSTEM ""', ""),
        ('SYSTEM "He said "hi""', 'He said "hi"'),
        ('SYSTEM "a\nb"', "a\nb"),
        ("SYSTEM 'single'", "'single'"),
        (r"SYSTEM a\nb", r"a\nb"),
        (f"SYSTEM {QUOTES}{QUOTES}", ""),
        (f"SYSTEM {QUOTES}\na\n{QUOTES}", "\na\n"),
        (f"SYSTEM {QUOTES}a  \n  b{QUOTES}  ", "a  \n  b"),
        (f"SYSTEM {QUOTES}a{QUOTES} b\nc{QUOTES}", f"a{QUOTES} b\nc"),
        (f"SYSTEM {QUOTES}# kept\r\nx\r{QUOTES}", "# kept\r\nx\r"),
        (
            "SYSTEM zero\u200bwidth no\u00a0break \ufeffbom \u00adsoft \ue000private",
            "zerowidth nobreak bom soft private",
        ),
        ("SYSTEM <\uff5cbegin\u2581of\uff5c> \U0001f389", "<\uff5cbegin\u2581of\uff5c> \U0001f389"),
        ("\u200bSYSTEM after an invisible character", "after an invisible character"),
    ],
)
def test_values(text: str, value: str) -> None:
    text = text.removesuffix("\nSYSTEM")
    assert args_of(text, "system") == [value]


def test_commands_in_order_with_ollamas_names() -> None:
    text = "# comment\nPARAMETER stop a\nPARAMETER num_ctx 1\nFROM m\nMESSAGE user hi: there\nPARAMETER system s"
    assert parse(text) == [
        Command("stop", "a"),
        Command("num_ctx", "1"),
        Command("model", "m"),
        Command("message", "user: hi: there"),
        Command("system", "s"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ("FROM m\nPARAMTER temperature 1", 2, "'PARAMTER temperature 1'", "Did you mean PARAMETER?"),
        ("FROM m\ntemperature 1", 2, "'temperature 1'", 'Did you mean "PARAMETER temperature ..."?'),
        ("FROM m\nPROMPT x", 2, "'PROMPT x'", "TEMPLATE"),
        (f"FROM m\nSYSTEM{QUOTES}x{QUOTES}", 2, "SYSTEM", "A blank must follow SYSTEM"),
        ("FROM m\nSYSTEM\nx", 3, "line 2: 'SYSTEM'", "blank must follow"),
        ("SYSTEM x", None, "no FROM line", "FROM llama3.2"),
        ("", None, "no FROM line", "FROM"),
        ("FROM", 1, "ends after 'FROM'", "needs a value"),
        ("FROM m\nPARAMETER stop", 2, "no parameter name and value", "blank and the value"),
        ('FROM m\nPARAMETER "stop" x', 2, "no parameter name", "without quotes"),
        ("FROM m\nMESSAGE User hi", 2, "'User'", "lower-case"),
        ("FROM m\nMESSAGE  user hi", 2, "'' is no role", "exactly one blank"),
        ("FROM m\nMESSAGE tool hi", 2, "'tool'", "system, user or assistant"),
        ("FROM m\nMESSAGE user", 2, "no role and text", "one blank"),
        ('FROM m\n\nSYSTEM "open\nmore', 3, 'opens a "', "ends at the first line"),
        (f"FROM m\nSYSTEM {QUOTES}", 2, "that no line closes", QUOTES),
        ("FROM m\r\nFOO x", 3, "line 2: 'FOO x'", "starts with"),
    ],
)
def test_errors(text: str, line: int | None, message: str, hint: str) -> None:
    with pytest.raises(ModelfileError) as caught:
        parse(text)
    assert caught.value.line == line
    assert message in str(caught.value)
    assert hint in (caught.value.hint or "")


def test_long_lines_are_cut_in_messages() -> None:
    with pytest.raises(ModelfileError) as caught:
        parse("FOO " + "x" * 10_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings(encoding: str) -> None:
    text = "# é\nFROM m\nSYSTEM 日本 🎉"
    data = text.encode(encoding)
    if encoding in ("utf-16-le", "utf-16-be"):
        data = "\ufeff".encode(encoding) + data
    assert decode(data) == text


def test_invalid_bytes_become_one_replacement_each() -> None:
    assert decode(b"a\xe2\x82b\xff\xed\xa0\x80") == "a\ufffd\ufffdb\ufffd\ufffd\ufffd\ufffd"


def test_too_large() -> None:
    with pytest.raises(ModelfileError, match="too many"):
        decode(b" " * ((64 << 20) + 1))


GO_PROGRAM = """package main
import ("fmt"; "strconv"; "unicode")
func main() {
  fmt.Println(unicode.Version)
  for r := rune(0); r <= unicode.MaxRune; r++ {
    if strconv.IsPrint(r) { fmt.Println(int(r)) }
  }
}
"""


@pytest.mark.full  # builds a Go program: half a minute
def test_printable_as_go_says(tmp_path: Path) -> None:
    """Go's strconv.IsPrint and str.isprintable differ only where one Unicode version lacks the character."""
    go = which("go", path=str(Path(sys.executable).parent)) or which("go")
    if go is None:
        pytest.skip("no Go toolchain: the comparison with strconv.IsPrint did not run")
    program = tmp_path / "main.go"
    program.write_text(GO_PROGRAM)
    environment = {"HOME": str(tmp_path), "GOCACHE": str(tmp_path / "cache"), "GOTOOLCHAIN": "local"}
    run = subprocess.run([go, "run", str(program)], check=True, capture_output=True, text=True, env=environment)
    unicode_of_go, *lines = run.stdout.split()
    printable = {int(line) for line in lines}
    assert len(printable) > 140_000
    differing = [c for c in range(0x110000) if (c in printable) != chr(c).isprintable()]
    if [int(n) for n in unicode_of_go.split(".")] >= [int(n) for n in unicodedata.unidata_version.split(".")]:
        assert {unicodedata.category(chr(c)) for c in differing} <= {"Cn"}
    else:
        assert all(chr(c).isprintable() for c in differing)


# What is accepted and hardly meant


@pytest.mark.parametrize(
    ("text", "item", "words"),
    [
        ('PARAMETER stop ["<a>", "<b>"]', "PARAMETER stop", "one stop text with brackets"),
        ("PARAMETER stop []", "PARAMETER stop", "never fires"),
        ("PARAMETER stop '<a>'", "PARAMETER stop", "single quotes"),
        (r"PARAMETER stop \nUser:", "PARAMETER stop", "no escapes"),
        ('PARAMETER stop "a" # c\nSYSTEM "b"', "PARAMETER stop", "swallowed"),
        ("SYSTEM today is {{ currentDate }}", "SYSTEM", "not evaluated"),
        (r"TEMPLATE a\nb", "TEMPLATE", "backslash"),
    ],
)
def test_warnings(text: str, item: str, words: str) -> None:
    (finding,) = warnings(parse(f"FROM m\n{text}"))
    assert finding.item == item
    assert words in finding.reason


@pytest.mark.parametrize(
    "text", ["PARAMETER stop [INST]", 'PARAMETER stop "<|im_end|>"', r'TEMPLATE {{ "a\n" }}b', "SYSTEM plain"]
)
def test_no_warnings(text: str) -> None:
    assert warnings(parse(f"FROM m\n{text}")) == ()


def test_warnings_of_a_model() -> None:
    stop = ["'<a>'", "fine"]
    model = OllamaModel("m", "store", system="{{ .X }}", parameters={"stop": stop}, messages=[{"role": "user"}])
    assert [finding.item for finding in model_warnings(model)] == ["PARAMETER stop", "SYSTEM"]


# Any text at all

PIECES = st.sampled_from(
    [
        "FROM m\n",
        "SYSTEM ",
        "PARAMETER ",
        "MESSAGE user ",
        '"',
        QUOTES,
        "\n",
        "\r\n",
        " ",
        "\t",
        "#",
        "stop x",
        "\u200b",
    ]
)
TEXTS = st.one_of(st.text(), st.lists(PIECES | st.text(max_size=5), max_size=40).map("".join))


@given(TEXTS)
def test_any_text_gives_commands_or_a_modelfile_error(text: str) -> None:
    try:
        commands = parse(text)
    except ModelfileError:
        return
    assert any(command.name == "model" for command in commands)
    assert all(c.isprintable() or c in "\t\r\n" for command in commands for c in command.args)
    warnings(commands)


@given(st.binary())
def test_any_bytes_decode(data: bytes) -> None:
    assert isinstance(decode(data), str)


@given(st.text(alphabet=st.characters(exclude_categories=["C", "Z"], include_characters=" \t\n")))
def test_what_is_quoted_comes_back(value: str) -> None:
    if any(line.rstrip(" \t").endswith('"') for line in value.split("\n")):
        return  # cannot be written in a Modelfile
    assert args_of(f"SYSTEM {QUOTES}{value}{QUOTES}", "system") == [value]


@pytest.mark.parametrize("unit", ["\n", '"\n', '"""\n', "# c\n", "SYSTEM x\n", ' "" ', "\u200b", "SYSTEM \t"])
def test_time_is_linear(unit: str) -> None:
    started = time.perf_counter()
    for head in ("FROM m\n", f"FROM m\nSYSTEM {QUOTES}x", 'FROM m\nSYSTEM "x'):
        try:
            parse(head + unit * 100_000)
        except ModelfileError:
            pass
    assert time.perf_counter() - started < 10
