"""What the header of a GGUF says: its metadata and its table of tensors, whether it is one file or several parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from migrate.gguf.types import GGMLType, file_type_name


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One entry of the tensor table.

    `shape` is GGUF's ne: the contiguous dimension first, so a linear layer is (in_features, out_features); numpy and
    torch write the same tensor reversed (`torch_shape`). `offset` is absolute, in the file; `nbytes` without padding.
    `file` is the place of that file in `GGUFHeader.files`.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLType
    offset: int
    nbytes: int
    file: int = 0

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """The shape as numpy, torch and safetensors write it: the contiguous dimension last."""
        return self.shape[::-1]

    @property
    def parameters(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class TypeShare:
    """How much of a model is stored as one type."""

    type: GGMLType
    tensors: int
    parameters: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """Everything a GGUF says about itself; the tensors' data stays in the file.

    `metadata` has the keys as written; arrays are tuples, long ones `LazyArray`. `data_offset` is where tensor data
    begins, in bytes from the start of the file.

    A model in parts has the tensors of all of them, and the rest from the first: `path`, `size` (bytes), `version`,
    `alignment`, `data_offset` and `metadata` are that file's. `files` are all parts in order, by default `path` alone.
    """

    path: Path
    size: int
    version: int
    alignment: int
    data_offset: int
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    files: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not self.files:
            object.__setattr__(self, "files", (self.path,))

    def get(self, key: str, default: Any = None) -> Any:
        return self.metadata.get(key, default)

    def field(self, key: str, default: Any = None) -> Any:
        """The value of "<architecture>.<key>", e.g. `field("attention.head_count")`."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    @property
    def architecture(self) -> str:
        """`general.architecture`; "" when the file has none (some adapters and projectors)."""
        value = self.metadata.get("general.architecture", "")
        return value if isinstance(value, str) else ""

    @property
    def chat_template(self) -> str | None:
        """The Jinja template the file carries, if any."""
        value = self.metadata.get("tokenizer.chat_template")
        return value if isinstance(value, str) else None

    @property
    def tool_use_template(self) -> str | None:
        """The variant of the Jinja template for requests with tools, if the file carries one."""
        value = self.metadata.get("tokenizer.chat_template.tool_use")
        return value if isinstance(value, str) else None

    @property
    def kind(self) -> str:
        """`general.type`: "model", "adapter", "mmproj", ...; "model" when the file does not say."""
        return str(self.metadata.get("general.type", "model"))

    @property
    def file_type(self) -> str | None:
        """The name of `general.file_type` ("Q4_K_M"); None when absent or unknown."""
        value = self.metadata.get("general.file_type")
        return file_type_name(value) if isinstance(value, int) else None

    @property
    def split_count(self) -> int:
        """Number of files the model was split into; 1 for a whole one."""
        value = self.metadata.get("split.count", 1)
        return value if isinstance(value, int) and value > 1 else 1

    @property
    def is_complete(self) -> bool:
        """False for a single part of a model whose other parts have not been joined to it."""
        return len(self.files) == self.split_count

    @property
    def parameter_count(self) -> int:
        """Number of weights in all tensors."""
        return sum(tensor.parameters for tensor in self.tensors.values())

    @property
    def tensor_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def type_shares(self) -> list[TypeShare]:
        """What the model really consists of, the largest part first."""
        groups: dict[GGMLType, list[TensorInfo]] = {}
        for tensor in self.tensors.values():
            groups.setdefault(tensor.type, []).append(tensor)
        shares = [
            TypeShare(kind, len(group), sum(t.parameters for t in group), sum(t.nbytes for t in group))
            for kind, group in groups.items()
        ]
        return sorted(shares, key=lambda share: (-share.nbytes, share.type))
