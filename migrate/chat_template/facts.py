"""What is known to be true inside a branch, and what that makes of the conditions in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from migrate.chat_template.jinja_ast import (
    And,
    Compare,
    Expr,
    Lit,
    Not,
    Or,
    conjunction,
    disjunction,
    negation,
    truth,
    walk,
)


class Facts:
    """Conditions known to hold or to fail; nothing is learned about expressions that `is_mutable`."""

    def __init__(self, is_mutable: Callable[[Expr], bool]) -> None:
        self._known: list[tuple[Expr, bool]] = []
        self._is_mutable = is_mutable

    @contextmanager
    def assuming(self, test: Expr, holds: bool) -> Iterator[None]:
        mark = len(self._known)
        self._learn(test, holds)
        try:
            yield
        finally:
            del self._known[mark:]

    def _learn(self, test: Expr, holds: bool) -> None:
        if isinstance(test, Not):
            self._learn(test.node, not holds)
        elif (isinstance(test, And) and holds) or (isinstance(test, Or) and not holds):
            for node in test.nodes:
                self._learn(node, holds)
        elif not any(self._is_mutable(node) for node in walk(test)):
            self._known.append((test, holds))

    def simplify(self, test: Expr) -> Expr:
        """The condition with everything known in it replaced."""
        if truth(test) is not None:
            return test
        for known, holds in self._known:
            decided = _implied(known, holds, test)
            if decided is not None:
                return Lit(decided)
        if isinstance(test, Not):
            return negation(self.simplify(test.node))
        if isinstance(test, And):
            return conjunction(self.simplify(node) for node in test.nodes)
        if isinstance(test, Or):
            return disjunction(self.simplify(node) for node in test.nodes)
        return test


def _implied(known: Expr, holds: bool, test: Expr) -> bool | None:
    """What `known` being `holds` says about `test`."""
    if known == test:
        return holds
    if not isinstance(test, Compare):
        return None
    if not isinstance(known, Compare):
        return _implied_by_truth(known, holds, test)
    if negation(known) == test:
        return not holds
    if not holds:
        known = negation(known)
        assert isinstance(known, Compare)
    if known.left != test.left or not isinstance(known.right, Lit) or not isinstance(test.right, Lit):
        return None
    if known.op == "==" and test.op in ("==", "!="):
        return (known.right == test.right) is (test.op == "==")
    return _implied_range(known, test)


def _implied_by_truth(known: Expr, holds: bool, test: Compare) -> bool | None:
    """A false string is the empty one, a true one is not."""
    if known != test.left or not isinstance(test.right, Lit) or not isinstance(test.right.value, str):
        return None
    if not holds:
        return (test.right.value == "") is (test.op == "==") if test.op in ("==", "!=") else None
    if test.right.value == "" and test.op in ("==", "!="):
        return test.op == "!="
    return None


def _implied_range(known: Compare, test: Compare) -> bool | None:
    left, right = known.right, test.right
    assert isinstance(left, Lit)
    assert isinstance(right, Lit)
    if not isinstance(left.value, int) or not isinstance(right.value, int):
        return None
    if known.op in (">=", ">") and test.op in (">=", ">"):
        lowest = left.value + (known.op == ">")
        return True if lowest >= right.value + (test.op == ">") else None
    if known.op in ("<=", "<") and test.op in ("<=", "<"):
        highest = left.value - (known.op == "<")
        return True if highest <= right.value - (test.op == "<") else None
    return None
