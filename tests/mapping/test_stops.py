from __future__ import annotations

import pytest

from migrate.findings import Ledger, Status
from migrate.gguf.vocab import CONTROL, USER_DEFINED
from migrate.mapping.stops import map_stops
from migrate.ollama.model import Parameter

SPECIAL = {
    "<|im_end|>": (2, CONTROL),
    "<|im_start|>": (1, CONTROL),
    "<tool>": (3, USER_DEFINED),
}


@pytest.mark.parametrize(
    ("stop", "token_ids", "strings", "status"),
    [
        (["<|im_end|>"], (), (), Status.EXACT),
        (["<|im_start|>"], (1,), (), Status.EQUIVALENT),
        (["<tool>"], (), ("<tool>",), Status.EQUIVALENT),
        (["User:"], (), ("User:",), Status.EQUIVALENT),
        (["x<|im_start|>user"], (), ("x<|im_start|>user",), Status.APPROXIMATE),
        (["User:", "User:"], (), ("User:",), Status.EQUIVALENT),
        ([""], (), (), Status.DROPPED),
    ],
)
def test_where_a_stop_goes(
    stop: list[str], token_ids: tuple[int, ...], strings: tuple[str, ...], status: Status
) -> None:
    ledger = Ledger()
    stops = map_stops(Parameter("stop", stop, "Modelfile"), SPECIAL, [2], ledger)
    assert (stops.token_ids, stops.strings) == (token_ids, strings)
    assert [f.status for f in ledger] == [status]


@pytest.mark.parametrize(
    ("text", "word"), [('["<|im_end|>"]', "list"), ("'</s>'", "quotes"), ("\\n\\n", "no escapes"), ("### User", "")]
)
def test_stop_strings_that_never_fire_are_pointed_out(text: str, word: str) -> None:
    ledger = Ledger()
    stops = map_stops(Parameter("stop", [text], "Modelfile"), SPECIAL, [], ledger)
    assert stops.strings == (text,)
    action = next(iter(ledger)).action
    assert word in action if word else not action


def test_no_stop_list() -> None:
    ledger = Ledger()
    assert map_stops(None, SPECIAL, [2], ledger).strings == ()
    assert len(ledger) == 0
