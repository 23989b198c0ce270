"""What is said of the weights must be true of the numbers."""

from __future__ import annotations

import pytest

from migrate.mapping.weights import _is_exact


@pytest.mark.parametrize(
    ("kinds", "dtype", "exact"),
    [
        ({"F16", "F32"}, "float16", True),
        ({"BF16", "F32"}, "bfloat16", True),
        ({"F32"}, "bfloat16", False),
        ({"F32"}, "float16", False),
        ({"F32"}, "float32", True),
        ({"BF16", "F16", "F32"}, "float32", True),
        ({"F16", "F32"}, "bfloat16", False),
        ({"Q8_0", "F32"}, "bfloat16", False),
        ({"Q8_0", "F32"}, "float32", False),
    ],
)
def test_exact_means_the_same_numbers(kinds: set[str], dtype: str, exact: bool) -> None:
    assert _is_exact(kinds, dtype) is exact
