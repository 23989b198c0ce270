from __future__ import annotations

from pathlib import Path

import pytest

from migrate.engines.base import Ask, Conversation
from migrate.errors import BadInput, ServerError, ServerUnreachable
from migrate.parity.witness import Journal, Witness, read
from tests.parity.toy import ToyEngine

HELLO = Conversation("x", ({"role": "user", "content": "hello"},))
IDENTITY = {"model": "toy", "source": {"kind": "vllm"}}


def _witness(engine: ToyEngine, journal: Journal | None = None) -> Witness:
    return Witness(engine, "source", journal or Journal(None, {}), pauses=(0.0, 0.0), sleep=lambda seconds: None)


def test_a_hiccup_is_mended_and_told() -> None:
    engine = ToyEngine(fails_at=[1])
    witness = _witness(engine)
    assert witness.tokenize("cat")
    assert witness.hiccups == ["toy vllm answered 500 (asked again)"]
    assert witness.asked == 2


def test_a_server_that_keeps_failing_is_not_asked_for_ever() -> None:
    witness = _witness(ToyEngine(fails_at=range(1, 99)))
    with pytest.raises(ServerError, match="answered 500"):
        witness.tokenize("cat")
    assert witness.asked == 3


def test_a_refusal_and_a_timeout_are_not_repeated() -> None:
    witness = _witness(ToyEngine())
    with pytest.raises(ServerError):
        witness.chat(Conversation("x", ({"role": "user", "content": "cat " * 4000},)), Ask())
    assert witness.asked == 1

    class Slow(ToyEngine):
        def _ask(self, what: str) -> None:
            raise ServerUnreachable("toy did not answer within 120 s")

    witness = _witness(Slow())
    with pytest.raises(ServerUnreachable):
        witness.tokenize("cat")
    assert witness.asked == 1


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    engine = ToyEngine()
    first = _witness(engine, Journal(path, IDENTITY))
    ask = Ask(max_tokens=3, stop=("cat",), format={"enum": ["a"]})
    said = [
        first.tokenize("cat dog"),
        first.render(HELLO),
        first.generate(HELLO, max_tokens=4, top_logprobs=5),
        first.score((12, 2), (3, 4), top=5),
        first.chat(HELLO, ask),
        first.embed(["a", "b"]),
    ]
    first.journal.close()
    assert path.stat().st_mode & 0o777 == 0o600
    asked = len(engine.asked)
    again = _witness(engine, Journal.resume(path, IDENTITY))
    assert [
        again.tokenize("cat dog"),
        again.render(HELLO),
        again.generate(HELLO, max_tokens=4, top_logprobs=5),
        again.score((12, 2), (3, 4), top=5),
        again.chat(HELLO, ask),
        again.embed(["a", "b"]),
    ] == said
    assert (len(engine.asked), again.journal.loaded) == (asked, 6)
    assert again.tokenize("dog")
    again.journal.close()
    assert len(engine.asked) == asked + 1
    assert len(read(path)[1]) == 7


def test_a_question_asked_twice_has_two_answers(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    engine = ToyEngine(restless=1.0)
    first = _witness(engine, Journal(path, IDENTITY))
    said = [first.generate(HELLO, max_tokens=9, top_logprobs=3) for _ in range(3)]
    first.journal.close()
    assert said[0] != said[1]
    again = _witness(ToyEngine(dies_after=0), Journal.resume(path, IDENTITY))
    assert [again.generate(HELLO, max_tokens=9, top_logprobs=3) for _ in range(3)] == said


def test_a_refusal_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    long = Conversation("x", ({"role": "user", "content": "cat " * 4000},))
    first = _witness(ToyEngine(), Journal(path, IDENTITY))
    with pytest.raises(ServerError):
        first.chat(long, Ask())
    first.journal.close()
    again = _witness(ToyEngine(dies_after=0), Journal.resume(path, IDENTITY))
    with pytest.raises(ServerError, match="too long") as caught:
        again.chat(long, Ask())
    assert caught.value.status == 400


@pytest.mark.parametrize("status", [401, 404, 429])
def test_what_can_be_mended_is_asked_again(status: int, tmp_path: Path) -> None:
    """A missing key, a wrong name, too many requests: a run that goes on must not be told the same for ever."""

    class Closed(ToyEngine):
        def _ask(self, what: str) -> None:
            raise ServerError("not now", status=status)

    path = tmp_path / "journal.jsonl"
    first = _witness(Closed(), Journal(path, IDENTITY))
    with pytest.raises(ServerError, match="not now"):
        first.tokenize("cat")
    first.journal.close()
    assert not path.exists()


def test_a_journal_that_was_cut_off_and_one_of_another_run(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first = _witness(ToyEngine(), Journal(path, IDENTITY))
    first.tokenize("cat")
    first.tokenize("dog")
    first.journal.close()
    path.write_bytes(path.read_bytes()[:-20])
    assert Journal.resume(path, IDENTITY).loaded == 1
    with pytest.raises(BadInput, match="is of another run: model differ"):
        Journal.resume(path, IDENTITY | {"model": "other"})


@pytest.mark.parametrize("content", ["", "x", "[]", '{"schema": 99}', "\x00\xff"])
def test_what_is_no_journal(content: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(content)
    with pytest.raises(BadInput):
        read(path)
