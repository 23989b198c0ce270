"""Errors measured while weights are written, tensor by tensor, by several threads at once."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TensorError:
    """How far a tensor's numbers are from what the GGUF says.

    `rms`: root mean square of the errors, relative to that of the numbers. `maximum`: the largest error, relative to
    the largest number.
    """

    name: str
    rms: float
    maximum: float


@dataclass(slots=True)
class _Sums:
    squared_errors: float = 0.0
    squares: float = 0.0
    largest_error: float = 0.0
    largest: float = 0.0


class Measured:
    """Collects from all threads; read it when the last has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[str, _Sums] = {}

    def add(self, name: str, exact: Floats, error: Floats) -> None:
        """`error` of the numbers `exact`, which are some of the tensor `name`."""
        exact, error = exact.reshape(-1), error.reshape(-1)
        new = (float(np.dot(error, error)), float(np.dot(exact, exact)), _largest(error), _largest(exact))
        with self._lock:
            sums = self._sums.setdefault(name, _Sums())
            sums.squared_errors += new[0]
            sums.squares += new[1]
            sums.largest_error = max(sums.largest_error, new[2])
            sums.largest = max(sums.largest, new[3])

    def errors(self) -> list[TensorError]:
        """What was measured, worst first."""
        with self._lock:
            found = [
                TensorError(
                    name,
                    math.sqrt(sums.squared_errors / sums.squares) if sums.squares else 0.0,
                    sums.largest_error / sums.largest if sums.largest else 0.0,
                )
                for name, sums in self._sums.items()
            ]
        return sorted(found, key=lambda error: (-error.rms, error.name))


def _largest(numbers: Floats) -> float:
    return max(float(numbers.max(initial=0.0)), -float(numbers.min(initial=0.0)))
