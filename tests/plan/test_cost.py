from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import UsageError
from migrate.plan import cost, gpus
from migrate.plan.throughput import HEADROOM

L4 = next(gpu for gpu in gpus.load() if gpu.name == "L4")


@pytest.mark.parametrize(
    ("rate", "capacity", "instances"),
    [(None, 10, 1), (500, 1000, 1), (700, 1000, 1), (701, 1000, 2), (500, 100, 8), (1, 1000, 1)],
)
def test_instances_keep_a_reserve(rate: float | None, capacity: float, instances: int) -> None:
    assert cost.instances_for(rate, capacity) == instances


@given(st.floats(0.01, 1e5), st.floats(0.01, 1e5))
def test_enough_and_not_one_too_many(rate: float, capacity: float) -> None:
    found = cost.instances_for(rate, capacity)
    assert found * capacity * HEADROOM >= rate * (1 - 1e-6)
    assert found == 1 or (found - 1) * capacity * HEADROOM < rate


def test_dollars() -> None:
    found = cost.cost(L4, instances=3, gpus_per_instance=1, instances_per_gpu=2, tokens_per_second=1000)
    assert (found.instances, found.gpus) == (3, 2)
    assert found.hourly == pytest.approx((0.70, 1.00, 1.70))
    assert found.monthly == pytest.approx((511, 730, 1241))
    assert found.per_million_tokens is not None
    assert found.per_million_tokens[1] == pytest.approx(1.00 / 3.6)
    split = cost.cost(L4, instances=3, gpus_per_instance=2, instances_per_gpu=1, tokens_per_second=0)
    assert (split.gpus, split.per_million_tokens) == (6, None)


def test_without_a_price() -> None:
    found = cost.cost(
        L4.model_copy(update={"price": None}),
        instances=1,
        gpus_per_instance=1,
        instances_per_gpu=1,
        tokens_per_second=9,
    )
    assert (found.gpus, found.hourly, found.monthly, found.per_million_tokens) == (1, None, None, None)


def test_figures() -> None:
    found = cost.cost(L4, instances=8, gpus_per_instance=1, instances_per_gpu=1, tokens_per_second=9)
    first, second = cost.figures(L4, found, 500, 100.0)
    assert first.values == "ceil(500 / (100.0 x 0.7))"
    assert second.values == "8 x $0.50 x 730 ($2,044 to $4,964)"
    assert "2026" in second.source
    assert cost.figures(L4, found, None, 100.0)[0].values.startswith("one")
    assert cost.figures(L4, found, 500, 100.0, 9.0)[2].values == "$4.00 / (9 x 0.0036)"


@pytest.mark.parametrize(
    ("text", "dollars"),
    [("1000/month", 1000), ("$1000", 1000), ("1000", 1000), ("1.37/h", 1000.1), ("0.5/hour", 365), (" 20 / mo ", 20)],
)
def test_budgets(text: str, dollars: float) -> None:
    assert cost.parse_budget(text) == pytest.approx(dollars)


@pytest.mark.parametrize("text", ["", "0", "-5", "1000/year", "1e9", "9" * 400, "1000 EUR", "$", "٣", "1,000"])
def test_no_budgets(text: str) -> None:
    with pytest.raises(UsageError, match="--budget"):
        cost.parse_budget(text)


@given(st.text(max_size=30))
def test_any_text_is_a_budget_or_a_usage_error(text: str) -> None:
    try:
        assert cost.parse_budget(text) > 0
    except UsageError as error:
        assert error.hint  # noqa: PT017 - both ways out are right
