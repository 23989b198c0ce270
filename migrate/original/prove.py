"""Is this the checkpoint the GGUF was made from? Configuration, tokenizer and weights are compared.

Weights are compared where the GGUF has them: rows of the checkpoint are brought into the GGUF's order and arithmetic,
and `blocks` says whether the blocks could have been made of them. By default a stretch of every tensor is read, so that
a repository of any size costs some megabytes; `full` reads all.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from math import prod
from typing import Any

import numpy as np

from migrate.architectures.base import ModelLayout
from migrate.architectures.tensors import MappedTensor, Operation, Piece
from migrate.errors import Refused
from migrate.gguf.dequantize import Bytes, Floats
from migrate.gguf.tensors import TensorReader, stored_bytes
from migrate.original import blocks, configs, vocabulary
from migrate.original.blocks import Comparison
from migrate.original.repository import RemoteTensor, Repository, read_json, read_tensors

SAMPLE_BYTES = 1 << 16
"""Of every tensor of the GGUF, as the checkpoint stores it."""
THREADS = 8
STRAY = 2e-4
"""Share of weights that may lie outside their code's cell. Originals: at most 2.5e-5 (Q2_K), fine-tunes: more than
3e-4 when weights move by a thousandth of their spread (docs/original.md)."""
RELATED = 0.5
"""Relative error up to which other weights may be a relative's: a fine-tune, another revision. Strangers have 1.4."""
_SEARCHED = frozenset(["Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "IQ4_XS"])
"""Types whose scale is fitted after the codes were chosen when there is an importance matrix: cells say little then."""

_SAME_AS = {"llama": ("mistral",), "mistral": ("llama",)}
"""One architecture in a GGUF: without a sliding window Mistral computes what Llama computes."""

Progress = Callable[[int, int], None]
"""Called with (bytes read, bytes in all)."""


class Verdict(StrEnum):
    PROVED = "proved"
    """The GGUF was made from it."""
    RELATED = "related"
    """Of the same family and size, with other weights: the base of a fine-tune, or another revision."""
    OTHER = "other"
    """Another model."""
    UNDECIDED = "undecided"
    """Nothing speaks against it, but what the GGUF keeps is too little to tell."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was compared. `equal` is None when it could not be."""

    name: str
    equal: bool | None
    reason: str


@dataclass(frozen=True, slots=True)
class TensorCheck:
    """A tensor of the GGUF beside the candidate's weights (see `Comparison`). `judgement`: "identical", "within" the
    cells of its codes, "weak" (no cells, the size of the error fits) or "differs"."""

    tensor: str
    target: str
    type: str
    weights: int
    judgement: str
    outside: int | None
    error: float


@dataclass(frozen=True, slots=True)
class Proof:
    """What became of a candidate. `nbytes` were read of it; `revision` is its commit, "" for a directory."""

    repository: str
    revision: str
    verdict: Verdict
    reason: str
    full: bool
    nbytes: int
    checks: Sequence[Check]
    tensors: Sequence[TensorCheck] = field(default_factory=tuple)

    def counts(self) -> dict[str, int]:
        return dict(Counter(tensor.judgement for tensor in self.tensors))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.verdict.value, "judgements": self.counts()}


def prove(
    layout: ModelLayout, repository: Repository, *, full: bool = False, progress: Progress | None = None
) -> Proof:
    """Compare a GGUF with a candidate.

    Raises:
        BadInput, NotFound: the candidate is damaged, or is none.
        Refused: it is gated, quantized itself, or has no safetensors.
        EngineError: the server does not answer, or cannot be read in parts.
    """
    config = read_json(repository, "config.json") or {}
    checks = [_architecture(layout, config)]
    if checks[0].equal is False:
        return _proof(repository, Verdict.OTHER, checks[0].reason, full, 0, checks)
    tensors = read_tensors(repository)
    _check_unquantized(repository, config, tensors)
    checks += [configs.check(layout, config), *vocabulary.check(layout.header, repository)]
    found, shapes = _match(layout, tensors)
    checks.append(shapes)
    if shapes.equal is False:
        return _proof(repository, Verdict.OTHER, shapes.reason, full, 0, checks)
    samples = list(_samples(layout, found, full))
    nbytes = sum(sample.nbytes for sample in samples)
    judged = _judge(layout, repository, samples, progress)
    verdict, reason = _verdict(judged, checks)
    return _proof(repository, verdict, reason, full, nbytes, checks, judged)


def _proof(
    repository: Repository,
    verdict: Verdict,
    reason: str,
    full: bool,
    nbytes: int,
    checks: Sequence[Check],
    tensors: Sequence[TensorCheck] = (),
) -> Proof:
    return Proof(repository.name, repository.revision, verdict, reason, full, nbytes, checks, tensors)


def _architecture(layout: ModelLayout, config: Mapping[str, Any]) -> Check:
    inner = config.get("text_config")
    named = {config.get("model_type"), inner.get("model_type") if isinstance(inner, dict) else None} - {None}
    ours = layout.architecture.model_type
    if named & {ours, f"{ours}_text", *_SAME_AS.get(ours, ())}:
        return Check("architecture", True, ours)
    return Check("architecture", False, f"its model_type is {', '.join(sorted(map(str, named))) or 'not stated'}, "
                                        f"the GGUF's is {ours}")  # fmt: skip


def _check_unquantized(repository: Repository, config: Mapping[str, Any], tensors: Mapping[str, RemoteTensor]) -> None:
    method = (config.get("quantization_config") or {}).get("quant_method")
    matrices = {tensor.dtype for tensor in tensors.values() if len(tensor.shape) > 1}
    if method or not matrices <= {"BF16", "F16", "F32"}:
        odd = method or ", ".join(sorted(matrices - {"BF16", "F16", "F32"}))
        raise Refused(
            f"{repository.name} is quantized itself ({odd}): its weights cannot be compared with a GGUF's",
            hint="vLLM may serve it as it is; prove that with `migrate parity`.",
        )


# -- names and shapes --------------------------------------------------------------------------------------------------


def _match(layout: ModelLayout, tensors: Mapping[str, RemoteTensor]) -> tuple[dict[str, RemoteTensor], Check]:
    """The candidate's tensor for each of ours. Multimodal checkpoints put the language model under another name."""
    found: dict[str, RemoteTensor] = {}
    for tensor in layout.tensors:
        name = next((name for name in _names(tensor.target) if name in tensors), None)
        if name is None and tensor.target == "lm_head.weight" and "model.embed_tokens.weight" in found:
            found[tensor.target] = found["model.embed_tokens.weight"]
        elif name is None:
            return found, Check("tensors", False, f"it has no {tensor.target}")
        else:
            found[tensor.target] = tensors[name]
        shape = found[tensor.target].shape
        if prod(shape) != prod(tensor.shape) or _squeezed(shape) != _squeezed(tensor.shape):
            return found, Check("tensors", False, f"{tensor.target} is {shape}, the GGUF's is {tensor.shape}")
    more = len(tensors) - len({tensor.name for tensor in found.values()})
    extra = f"; {more} more, such as a vision tower, are not in the GGUF" if more else ""
    return found, Check("tensors", True, f"names and shapes of all {len(found)}{extra}")


def _names(target: str) -> Iterator[str]:
    yield target
    inner = target.removeprefix("model.")
    for prefix in ("language_model.", "model.language_model.", "language_model.model.", "text_model."):
        yield prefix + inner
        yield prefix + target
    yield inner


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


# -- samples -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Sample:
    """Rows [first, last) of a piece; `at` is the position of the piece in the tensor, in weights."""

    tensor: MappedTensor
    piece: Piece
    remote: RemoteTensor
    at: int
    first: int
    last: int
    width: int

    @property
    def item(self) -> int:
        return 4 if self.remote.dtype == "F32" else 2

    @property
    def nbytes(self) -> int:
        return (self.last - self.first) * self.width * self.item


def _samples(layout: ModelLayout, found: Mapping[str, RemoteTensor], full: bool) -> Iterator[_Sample]:
    """A stretch of every tensor of the GGUF, of two experts where it holds all; or everything."""
    taken: Counter[str] = Counter()
    for tensor in layout.tensors:
        at = 0
        for piece in tensor.pieces:
            width = piece.width or tensor.width
            begin, at = at, at + piece.count * width
            names = [info.name for info in piece.sources]
            if full or (any(taken[name] < 2 for name in names) and _chosen(tensor, piece, taken)):
                taken.update(names)
                remote = found[tensor.target]
                yield from _stretches(tensor, piece, remote, begin, width, full)


def _chosen(tensor: MappedTensor, piece: Piece, taken: Mapping[str, int]) -> bool:
    """The first piece of a tensor always; a second one from anywhere, the same in every run."""
    if any(not taken[info.name] for info in piece.sources):
        return True
    return _hash(f"{tensor.target} {piece.rows[0] if len(piece.rows) else 0}") % 4 == 0


def _stretches(
    tensor: MappedTensor, piece: Piece, remote: RemoteTensor, at: int, width: int, full: bool
) -> Iterator[_Sample]:
    item = 4 if remote.dtype == "F32" else 2
    if piece.transposed:
        yield _Sample(tensor, piece, remote, at, 0, piece.count, width)
        return
    rows = max(1, SAMPLE_BYTES * (16 if full else 1) // (width * item))
    if full:
        for first in range(0, piece.count, rows):
            yield _Sample(tensor, piece, remote, at, first, min(first + rows, piece.count), width)
        return
    first = _hash(tensor.target) % max(1, piece.count - rows + 1)
    yield _Sample(tensor, piece, remote, at, first, min(first + rows, piece.count), width)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "little")


# -- weights -----------------------------------------------------------------------------------------------------------


def _judge(
    layout: ModelLayout, repository: Repository, samples: Sequence[_Sample], progress: Progress | None
) -> list[TensorCheck]:
    total, done = sum(sample.nbytes for sample in samples), 0
    sums: dict[str, tuple[str, str, Comparison]] = {}
    imatrix = any(key.startswith("quantize.imatrix") for key in layout.header.metadata)
    with TensorReader(layout.header) as reader, ThreadPoolExecutor(THREADS) as pool:
        try:
            for sample, parts in zip(
                samples, pool.map(lambda sample: _compare(reader, repository, sample), samples), strict=True
            ):
                for name, kind, comparison in parts:
                    before = sums.get(name)
                    whole = comparison if before is None else before[2] + comparison
                    sums[name] = (sample.tensor.target if before is None else before[0], kind, whole)
                done += sample.nbytes
                if progress:
                    progress(done, total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [
        TensorCheck(name, target, kind, c.weights, _judgement(c, kind, imatrix), c.outside, c.error)
        for name, (target, kind, c) in sums.items()
    ]


def _compare(reader: TensorReader, repository: Repository, sample: _Sample) -> list[tuple[str, str, Comparison]]:
    tensor, piece, width = sample.tensor, sample.piece, sample.width
    begin = (sample.at + sample.first * width) * sample.item
    data = repository.read(sample.remote.file, sample.remote.offset + begin, sample.nbytes)
    weights = _floats(data, sample.remote.dtype)
    if piece.transposed:
        weights = np.ascontiguousarray(weights.reshape(width, -1).T)
    rows = weights.reshape(-1, width)
    if tensor.columns is not None:
        moved = np.empty_like(rows)
        moved[:, np.asarray(tensor.columns)] = rows
        rows = moved
    rows, tolerance = _undo(rows, tensor.operation)
    found = []
    count = len(piece.sources)
    for index, info in enumerate(piece.sources):
        mine = [k for k in range(sample.first, sample.last) if k % count == index]
        if not mine:
            continue
        order = [piece.rows[k // count] for k in mine]
        buffer: Bytes = np.empty(len(order) * stored_bytes(info, width), np.uint8)
        raw = reader.rows_in_order(info, width, order, buffer)
        ours = np.ascontiguousarray(rows[[k - sample.first for k in mine]]).reshape(-1)
        found.append((info.name, info.type.name, blocks.compare(ours, raw, info.type, tolerance=tolerance)))
    return found


def _floats(data: bytes, dtype: str) -> Floats:
    if dtype == "F32":
        return np.frombuffer(data, np.float32)
    if dtype == "F16":
        return np.frombuffer(data, np.float16).astype(np.float32)
    return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)


def _undo(rows: Floats, operation: Operation | None) -> tuple[Floats, float]:
    """The GGUF's numbers, and how exactly they can be told."""
    if operation is Operation.MINUS_ONE:
        return np.asarray(rows + np.float32(1.0), np.float32), 0.0
    if operation is Operation.LOG_NEGATIVE:
        return np.asarray(-np.exp(rows.astype(np.float64)), np.float32), 1e-6
    return rows, 0.0


def _judgement(comparison: Comparison, kind: str, imatrix: bool) -> str:
    if comparison.remade:
        return "identical"
    if comparison.outside is None or (imatrix and kind in _SEARCHED):
        return "weak" if comparison.error < RELATED else "differs"
    if comparison.outside > 2 + STRAY * comparison.weights:
        return "differs"
    return "within"


def _verdict(tensors: Sequence[TensorCheck], checks: Sequence[Check]) -> tuple[Verdict, str]:
    wrong = [tensor for tensor in tensors if tensor.judgement == "differs"]
    if wrong:
        names = ", ".join(dict.fromkeys(_part(tensor.tensor) for tensor in wrong))
        told = f"{len(wrong)} of {len(tensors)} tensors have other weights ({names[:160]})"
        if all(tensor.error < RELATED for tensor in wrong):
            return Verdict.RELATED, f"{told}: the GGUF is a fine-tune of it, another revision, or was quantized twice"
        return Verdict.OTHER, told
    if unequal := [check for check in checks if check.equal is False]:
        return Verdict.RELATED, f"the weights fit, but {unequal[0].name} differs: {unequal[0].reason}"
    weak = [tensor for tensor in tensors if tensor.judgement == "weak"]
    if weak:
        kinds = ", ".join(sorted({tensor.type for tensor in weak}))
        return Verdict.UNDECIDED, f"{len(weak)} tensors are {kinds}, which keep too little to tell a fine-tune from it"
    if unknown := [check for check in checks if check.equal is None]:
        return Verdict.UNDECIDED, f"the weights fit, but {unknown[0].name} cannot be compared: {unknown[0].reason}"
    same = sum(tensor.judgement == "identical" for tensor in tensors)
    rest = len(tensors) - same
    within = f", {rest} lie within their codes" if rest else ""
    return Verdict.PROVED, f"{same} of {len(tensors)} tensors are remade byte for byte{within}"


def _part(tensor: str) -> str:
    """The kind of a tensor: its name without the layer."""
    words = tensor.split(".")
    return words[2] if words[0] == "blk" and len(words) > 2 else words[0]
