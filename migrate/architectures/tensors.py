"""The words of a tensor table: which tensors of a GGUF become which of a checkpoint. Standard library only.

A checkpoint's tensor is described by where its rows come from, not by arithmetic: llama.cpp's converter permutes,
stacks, splits and fuses whole rows, and quantized blocks run along a row, so the same description serves numbers and
quantized blocks. The few places where numbers change (a norm stored plus one, -exp(A_log)) are an `Operation`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Protocol

from migrate.errors import GGUFError
from migrate.gguf.header import TensorInfo
from migrate.gguf.types import GGMLType

Dimensions = Mapping[str, int]
"""Sizes by name ("hidden", "vocab", ...) in which a tensor table writes its shapes."""
Shape = tuple[str | int, ...]
"""A shape in words, torch order. A number stands for itself."""


class Operation(Enum):
    """What undoes llama.cpp's arithmetic, in float32."""

    MINUS_ONE = "minus one"
    """Norm weights that llama.cpp stores plus one (gemma, qwen3_next, nemotron)."""
    LOG_NEGATIVE = "log negative"
    """A_log of linear attention, stored as -exp(A_log)."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a GGUF that lie one after the other in the checkpoint.

    The sources have one shape and are seen as matrices of `width` columns (0: `MappedTensor.width`). Several sources
    take turns: first row of each, second row of each. `transposed`: the piece, as a matrix, is written by columns.
    """

    sources: tuple[TensorInfo, ...]
    rows: Sequence[int]
    transposed: bool = False
    width: int = 0

    @property
    def count(self) -> int:
        """Rows, before transposing."""
        return len(self.rows) * len(self.sources)

    @property
    def contiguous(self) -> bool:
        return isinstance(self.rows, range) and self.rows.step == 1


@dataclass(frozen=True, slots=True)
class MappedTensor:
    """A tensor of the checkpoint and where its rows come from. `shape` is torch's; `width` the weights of a GGUF row.

    `columns`, where columns move, says for every column of the checkpoint which one of the GGUF it is. `float32`:
    the model keeps this one in float32 whatever its dtype.
    """

    target: str
    shape: tuple[int, ...]
    width: int
    pieces: tuple[Piece, ...]
    operation: Operation | None = None
    columns: Sequence[int] | None = None
    float32: bool = False

    @property
    def sources(self) -> tuple[TensorInfo, ...]:
        """The tensors of the GGUF this one is made of."""
        return tuple(dict.fromkeys(info for piece in self.pieces for info in piece.sources))

    @property
    def types(self) -> frozenset[GGMLType]:
        return frozenset(info.type for info in self.sources)

    @property
    def parameters(self) -> int:
        return prod(self.shape)


class Transform(Protocol):
    """How GGUF tensors of the announced shapes become tensors of the checkpoint."""

    def __call__(
        self, target: str, sources: tuple[TensorInfo, ...], sizes: Dimensions
    ) -> MappedTensor | Iterable[MappedTensor]: ...


@dataclass(frozen=True, slots=True)
class Tensor:
    """One line of a tensor table.

    `source` and `target` are names in GGUF and checkpoint; "{i}" stands for the layer. `shape` is the source's, in
    words. A target made of several tensors has `source` = ((name, shape), ...) and `shape` = (). Tensors of one `group`
    are optional, and are there all together, in every layer, or not at all. `kind`: only in layers of that kind (see
    `Architecture.layer`).
    """

    source: str | tuple[tuple[str, Shape], ...]
    target: str
    shape: Shape = ()
    transform: Transform | None = None
    group: str = ""
    kind: str = ""

    @property
    def sources(self) -> tuple[tuple[str, Shape], ...]:
        return ((self.source, self.shape),) if isinstance(self.source, str) else self.source

    @property
    def per_layer(self) -> bool:
        return "{i}" in self.sources[0][0]


def resolve(shape: Shape, sizes: Dimensions) -> tuple[int, ...]:
    """A shape in numbers."""
    return tuple(size if isinstance(size, int) else sizes[size] for size in shape)


def copied(
    target: str, info: TensorInfo, shape: tuple[int, ...] | None = None, operation: Operation | None = None
) -> MappedTensor:
    """The whole tensor, its rows in their order."""
    width = info.shape[0]
    rows = range(info.parameters // width if width else 0)
    return MappedTensor(target, shape or info.torch_shape, width, (Piece((info,), rows),), operation)


@dataclass(frozen=True, slots=True)
class Reshape:
    """The same numbers under another shape (a convolution's kernel without its middle dimension of one, say)."""

    shape: Shape
    operation: Operation | None = None

    def __call__(self, target: str, sources: tuple[TensorInfo, ...], sizes: Dimensions) -> MappedTensor:
        return copied(target, sources[0], resolve(self.shape, sizes), self.operation)


@dataclass(frozen=True, slots=True)
class Change:
    """The same rows, with the arithmetic of the converter undone."""

    operation: Operation

    def __call__(self, target: str, sources: tuple[TensorInfo, ...], sizes: Dimensions) -> MappedTensor:
        return copied(target, sources[0], operation=self.operation)


@dataclass(frozen=True, slots=True)
class Float32:
    """Kept in float32 whatever the dtype of the rest, as transformers does (`_keep_in_fp32_modules`)."""

    def __call__(self, target: str, sources: tuple[TensorInfo, ...], sizes: Dimensions) -> MappedTensor:
        whole = copied(target, sources[0])
        return MappedTensor(whole.target, whole.shape, whole.width, whole.pieces, float32=True)


MINUS_ONE = Change(Operation.MINUS_ONE)
FLOAT32 = Float32()

RowOrder = Callable[[Dimensions], Sequence[int]]
"""From sizes to: for every row of the checkpoint, the row of the GGUF it is."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows in another order, or some of them. A vector's elements are its rows. `shape`: of the target."""

    order: RowOrder
    shape: Shape | None = None
    operation: Operation | None = None

    def __call__(self, target: str, sources: tuple[TensorInfo, ...], sizes: Dimensions) -> MappedTensor:
        (info,) = sources
        order = self.order(sizes)
        inner = info.torch_shape[1:]
        shape = (len(order), *inner) if self.shape is None else resolve(self.shape, sizes)
        return MappedTensor(target, shape, prod(inner), (Piece(sources, order),), self.operation)


@dataclass(frozen=True, slots=True)
class Unpermute:
    """Undo the row order llama.cpp gives q and k of the llama family.

    llama.cpp rotates neighbouring pairs (2i, 2i + 1) of a head, transformers rotates (i, i + head_dim / 2); so the
    converter of llama.cpp interleaves the two halves of each head's rows. `heads` names the dimension counting heads.
    """

    heads: str

    def __call__(self, target: str, sources: tuple[TensorInfo, ...], sizes: Dimensions) -> MappedTensor:
        rows = sources[0].shape[-1]
        return Rows(lambda _: unpermuted(rows, rows // sizes[self.heads]))(target, sources, sizes)


def unpermuted(rows: int, head_dim: int) -> list[int]:
    """For every row of a checkpoint's q or k, the row of the GGUF's (see `Unpermute`)."""
    within_head = [*range(0, head_dim, 2), *range(1, head_dim, 2)]
    return [first + row for first in range(0, rows, head_dim) for row in within_head]


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns in another order: `order` says for every column of the checkpoint which one of the GGUF it is."""

    order: RowOrder

    def __call__(self, target: str, sources: tuple[TensorInfo, ...], sizes: Dimensions) -> MappedTensor:
        whole = copied(target, sources[0])
        return MappedTensor(target, whole.shape, whole.width, whole.pieces, columns=self.order(sizes))


@dataclass(frozen=True, slots=True)
class Unstack:
    """A tensor [experts, rows, columns] as one matrix per expert; "{e}" in the target stands for the expert.

    `part` of `parts`: only that stretch of every expert's rows (gate and up in one tensor).
    """

    part: int = 0
    parts: int = 1

    def __call__(self, target: str, sources: tuple[TensorInfo, ...], sizes: Dimensions) -> Iterable[MappedTensor]:
        (info,) = sources
        experts, rows, *inner = info.torch_shape
        width, count = (prod(inner), rows // self.parts) if inner else (rows, 1)
        shape = (count, *inner) if inner else (rows,)
        for e in range(experts):
            first = e * count * self.parts + self.part * count
            piece = Piece(sources, range(first, first + count))
            yield MappedTensor(target.replace("{e}", str(e)), shape, width, (piece,))


@dataclass(frozen=True, slots=True)
class Parts:
    """One tensor cut along its rows: `parts` are (name that "{part}" stands for, rows in words)."""

    parts: tuple[tuple[str, str], ...]

    def __call__(self, target: str, sources: tuple[TensorInfo, ...], sizes: Dimensions) -> Iterable[MappedTensor]:
        (info,) = sources
        inner = info.torch_shape[1:]
        first = 0
        for name, size in self.parts:
            rows = range(first, first + sizes[size])
            yield MappedTensor(
                target.replace("{part}", name), (len(rows), *inner), prod(inner), (Piece(sources, rows),)
            )
            first = rows.stop
        if first != info.torch_shape[0]:
            raise GGUFError(f"tensor {info.name!r} has {info.torch_shape[0]} rows, its parts have {first}")


@dataclass(frozen=True, slots=True)
class Fuse:
    """Several tensors, one below the other, in every one of `blocks` equal stretches (kv groups, experts, or one).

    [q of group 0, k of group 0, v of group 0, q of group 1, ...]. `transforms` reorder a source's rows first.
    `shape`: the target's, if not simply all rows.
    """

    blocks: str = ""
    shape: Shape | None = None
    orders: tuple[RowOrder | None, ...] = ()

    def __call__(self, target: str, sources: tuple[TensorInfo, ...], sizes: Dimensions) -> MappedTensor:
        width = sources[0].shape[0] if len(sources[0].shape) > 1 else 1
        count = sizes[self.blocks] if self.blocks else 1
        pieces = []
        for block in range(count):
            for index, info in enumerate(sources):
                rows = info.parameters // width // count
                stretch: Sequence[int] = range(block * rows, (block + 1) * rows)
                if index < len(self.orders) and (order := self.orders[index]):
                    stretch = list(order(sizes))[block * rows : (block + 1) * rows]
                pieces.append(Piece((info,), stretch))
        total = sum(piece.count for piece in pieces)
        plain = (total, width) if len(sources[0].shape) > 1 else (total,)
        shape = plain if self.shape is None else resolve(self.shape, sizes)
        return MappedTensor(target, shape, width, tuple(pieces))


@dataclass(frozen=True, slots=True)
class Interleave:
    """Tensors [experts, rows, columns] whose rows take turns; `transposed`: each expert's matrix is turned over."""

    shape: Shape
    transposed: bool = False

    def __call__(self, target: str, sources: tuple[TensorInfo, ...], sizes: Dimensions) -> MappedTensor:
        experts = sources[0].torch_shape[0]
        width = sources[0].shape[0] if len(sources[0].shape) > 2 else 1
        rows = sources[0].parameters // width // experts
        pieces = tuple(Piece(sources, range(e * rows, (e + 1) * rows), self.transposed) for e in range(experts))
        return MappedTensor(target, resolve(self.shape, sizes), width, pieces)
