"""Hugging Face checkpoints that Ollama takes: a directory after FROM, or the tensor layers of its MLX models.

Nothing has to be converted: vLLM reads the same tensors. What the rest of the program asks a GGUF for (end tokens, BOS,
the chat template, sizes) is put into a header as `ollama create` would write it, without tensor data of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

from migrate import architectures
from migrate.errors import BadInput, MigrateError, Refused, StoreError
from migrate.gguf.header import GGUFHeader, TensorInfo
from migrate.gguf.types import GGMLType
from migrate.gguf.vocab import CONTROL, NORMAL, USER_DEFINED
from migrate.ollama.bounded import loads_object, read_bytes

MAX_JSON_BYTES = 128 << 20
"""The largest tokenizer.json in use has some 35 MB."""
MAX_HEADER_BYTES = 100 << 20
"""What the safetensors library allows."""
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_TEXTS = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja"),
    *("chat_template.json", "preprocessor_config.json", "processor_config.json", "modules.json"),
)
_DTYPES = {"BF16": GGMLType.BF16, "F16": GGMLType.F16, "F32": GGMLType.F32}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a safetensors file: `offset` absolute, in bytes; `shape` as torch has it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`files` are small files by name; `shards` whole safetensors files to be copied; `tensors` what they hold.

    A model of tensor layers has no shards: its tensors lie one by one in blobs.
    """

    config: Mapping[str, Any]
    files: Mapping[str, Path]
    shards: Sequence[Path]
    tensors: Mapping[str, StoredTensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def dtype(self) -> str:
        """The name of the dtype most weights have."""
        sizes: dict[str, int] = {}
        for tensor in self.tensors.values():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
        most = max(sizes, key=lambda name: sizes[name], default="BF16")
        return {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}.get(most, most)


def is_checkpoint(directory: Path) -> bool:
    """Whether a directory holds what `ollama create` would take for a Hugging Face checkpoint."""
    return (directory / "config.json").is_file() and bool(_shards(directory))


def read_directory(directory: Path, *, links: bool = False) -> tuple[Checkpoint, GGUFHeader]:
    """A checkpoint directory, and the header that stands for it.

    `links`: its files may lie elsewhere, as in the Hub's cache.

    Raises:
        BadInput: a file is missing, damaged, or leads out of the directory.
        Refused: quantized weights, or pickled ones.
    """
    files = {name: directory / name for name in _TEXTS if (directory / name).is_file()}
    shards = _shards(directory)
    for path in (*files.values(), *shards):
        if not links and not path.resolve().is_relative_to(directory.resolve()):
            raise BadInput(f"{path} leads out of the checkpoint's directory", hint="Ollama refuses such links, too.")
    try:
        checkpoint = _checkpoint(files, shards, (tensor for path in shards for tensor in read_safetensors(path)))
        _check_index(directory, checkpoint)
    except StoreError as error:
        raise BadInput(str(error)) from None
    return checkpoint, _header(directory, checkpoint)


def read_layers(name: str, files: Mapping[str, Path], blobs: Mapping[str, Path]) -> tuple[Checkpoint, GGUFHeader]:
    """A model of tensor layers: `files` are its JSON layers by name, `blobs` the tensors' files by name.

    Raises:
        StoreError: a blob is damaged or holds something else than its layer says.
        Refused: quantized for MLX, which no other engine reads.
    """
    tensors = []
    for tensor_name, path in blobs.items():
        found = list(read_safetensors(path))
        if len(found) != 1 or found[0].name != tensor_name:
            parts = ", ".join(tensor.name for tensor in found[:4])
            raise Refused(
                f"{name}: tensor layer {tensor_name!r} is packed for MLX ({parts}); vLLM cannot read it",
                hint="Serve the Hugging Face checkpoint it was made from.",
            )
        tensors += found
    if "config.json" not in files:
        raise StoreError(f"{name}: tensor layers without a config.json")
    checkpoint = _checkpoint(files, (), tensors)
    return checkpoint, _header(Path(name), checkpoint)


def read_safetensors(path: Path) -> Iterable[StoredTensor]:
    """The tensors of a safetensors file, from its header. Raises StoreError for a damaged one."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise StoreError(f"{path.name}: not a safetensors file, or cut short")
        entries = loads_object(file.read(length), path.name)
    for name, entry in entries.items():
        if name != "__metadata__":
            yield _stored(path, name, entry, 8 + length, size)


def _stored(path: Path, name: str, entry: Any, start: int, size: int) -> StoredTensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = isinstance(dtype, str) and all(isinstance(n, int) and n >= 0 for n in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        whole = False
    if not whole or begin > end or start + end > size:
        raise StoreError(f"{path.name}: the entry of tensor {name[:200]!r} is damaged, or the file is cut short")
    item = {"BF16": 2, "F16": 2, "F32": 4}.get(dtype)
    if item is not None and prod(shape) * item != end - begin:
        raise StoreError(f"{path.name}: tensor {name[:200]!r} of shape {shape} has {end - begin} bytes")
    return StoredTensor(name, dtype, shape, path, start + begin, end - begin)


def _checkpoint(files: Mapping[str, Path], shards: Sequence[Path], tensors: Iterable[StoredTensor]) -> Checkpoint:
    config = _json(files, "config.json")
    found: dict[str, StoredTensor] = {}
    for tensor in tensors:
        if tensor.name in found:
            raise StoreError(f"{tensor.path.name}: tensor {tensor.name!r} is in {found[tensor.name].path.name}, too")
        found[tensor.name] = tensor
    odd = sorted({tensor.dtype for tensor in found.values()} - _DTYPES.keys())
    if odd or config.get("quantization_config"):
        raise Refused(
            f"the checkpoint is quantized ({', '.join(odd) or 'quantization_config'}); Ollama requantizes such weights",
            hint="vLLM may serve it as it is (vllm serve DIR), with other answers than Ollama gave.",
        )
    return Checkpoint(config, files, shards, found)


def _shards(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("model*.safetensors") if WEIGHTS.fullmatch(path.name))


def _check_index(directory: Path, checkpoint: Checkpoint) -> None:
    """Every tensor the index promises is there."""
    path = directory / "model.safetensors.index.json"
    if not path.is_file():
        return
    index = loads_object(read_bytes(path, MAX_JSON_BYTES, path.name), path.name).get("weight_map")
    if not isinstance(index, dict):
        raise StoreError(f"{path.name}: no weight_map")
    if missing := sorted(index.keys() - checkpoint.tensors.keys()):
        raise StoreError(f"{directory}: tensor {missing[0]!r} is in the index, but in none of the files")


# -- the header that stands for it -------------------------------------------------------------------------------------


def _header(path: Path, checkpoint: Checkpoint) -> GGUFHeader:
    config = {**checkpoint.config, **(checkpoint.config.get("text_config") or {})}
    name = _gguf_name(str(config.get("model_type", "")))
    metadata: dict[str, Any] = {"general.architecture": name, "general.type": "model"}
    for key, ours in (
        ("max_position_embeddings", "context_length"),
        ("num_hidden_layers", "block_count"),
        ("hidden_size", "embedding_length"),
        ("num_attention_heads", "attention.head_count"),
        ("num_key_value_heads", "attention.head_count_kv"),
        ("head_dim", "attention.key_length"),
    ):
        if isinstance(config.get(key), int):
            metadata[f"{name}.{ours}"] = config[key]
    metadata |= _tokenizer(checkpoint, config)
    tensors = {
        t.name: TensorInfo(t.name, t.shape[::-1], _DTYPES[t.dtype], t.offset, t.nbytes)
        for t in checkpoint.tensors.values()
    }
    return GGUFHeader(
        path=path,
        size=checkpoint.nbytes,
        version=3,
        alignment=32,
        data_offset=0,
        metadata=MappingProxyType(metadata),
        tensors=MappingProxyType(tensors),
    )


def _gguf_name(model_type: str) -> str:
    try:
        return architectures.for_model_type(model_type).gguf_names[0]
    except MigrateError:
        return model_type or "unknown"


def _tokenizer(checkpoint: Checkpoint, config: Mapping[str, Any]) -> dict[str, Any]:
    settings = _json(checkpoint.files, "tokenizer_config.json", {})
    tokens, types = _vocabulary(_json(checkpoint.files, "tokenizer.json", {}))
    ids = {text: i for i, text in enumerate(tokens)}
    metadata: dict[str, Any] = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    generation = _json(checkpoint.files, "generation_config.json", {})
    for role, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        found = settings.get(f"{role}_token")
        text = found.get("content") if isinstance(found, dict) else found
        given = generation.get(f"{role}_token_id", config.get(f"{role}_token_id"))
        token = ids.get(text) if isinstance(text, str) else None
        if token is None and isinstance(given, int | list):
            token = given if isinstance(given, int) else next((i for i in given if isinstance(i, int)), None)
        if token is not None:
            metadata[f"tokenizer.ggml.{key}_token_id"] = token
    more = generation.get("eos_token_id")
    if isinstance(more, list) and len(more) > 1:
        others = [i for i in more if i != metadata.get("tokenizer.ggml.eos_token_id")]
        for key, token in zip(("eot", "eom"), others, strict=False):
            metadata[f"tokenizer.ggml.{key}_token_id"] = token
    adds_bos = settings.get("add_bos_token")
    if not isinstance(adds_bos, bool):
        adds_bos = _post_processor_adds(_json(checkpoint.files, "tokenizer.json", {}), settings.get("bos_token"))
    metadata["tokenizer.ggml.add_bos_token"] = adds_bos
    if (template := _chat_template(checkpoint, settings)) is not None:
        metadata["tokenizer.chat_template"] = template
    return metadata


def _vocabulary(tokenizer: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Texts and types by id, as far as tokenizer.json says."""
    vocabulary = (tokenizer.get("model") or {}).get("vocab") or {}
    if isinstance(vocabulary, list):
        vocabulary = {str(entry[0]): i for i, entry in enumerate(vocabulary)}
    texts = {i: text for text, i in vocabulary.items() if isinstance(i, int)}
    kinds = dict.fromkeys(texts, NORMAL)
    for token in tokenizer.get("added_tokens") or ():
        texts[token["id"]] = token["content"]
        kinds[token["id"]] = CONTROL if token.get("special") else USER_DEFINED
    size = max(texts, default=-1) + 1
    if size > 1 << 22:
        raise StoreError(f"tokenizer.json: a token has the id {size - 1}")
    return tuple(texts.get(i, f"[PAD{i}]") for i in range(size)), tuple(kinds.get(i, USER_DEFINED) for i in range(size))


def _post_processor_adds(tokenizer: Mapping[str, Any], bos: Any) -> bool:
    """Whether the template of tokenizer.json puts the BOS token in front."""
    text = bos.get("content") if isinstance(bos, dict) else bos
    processor = tokenizer.get("post_processor") or {}
    for step in (processor, *(processor.get("processors") or ())):
        single = step.get("single") or ()
        if single and "SpecialToken" in single[0]:
            return bool(single[0]["SpecialToken"].get("id") == text)
    return False


def _chat_template(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> str | None:
    if path := checkpoint.files.get("chat_template.jinja"):
        return read_bytes(path, 1 << 20, path.name).decode("utf-8", "replace")
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _json(files: Mapping[str, Path], name: str, default: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    path = files.get(name)
    if path is None:
        if default is None:
            raise StoreError(f"{name} is missing")
        return default
    return loads_object(read_bytes(path, MAX_JSON_BYTES, name), name)
