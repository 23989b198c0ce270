"""Parameters and bytes of a model's weights: from what is on disk exactly, or from a bare config.

vLLM holds in GPU memory what is in the files, each tensor in the dtype it is served in. What a token computes with is
less: one row of the embedding, and of the experts only those it is sent to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from migrate.architectures import for_model_type
from migrate.architectures.tensors import Tensor, resolve
from migrate.errors import BadInput, NotFound, Refused, UsageError
from migrate.ollama.checkpoint import read_safetensors
from migrate.plan.config import Config
from migrate.plan.layers import DTYPE_BYTES, layer_kinds

GROUP = 32
"""Weights that share a scale in the packed formats this program writes."""
WAYS: Mapping[str, str] = {
    "dense": "every weight in the dtype of the config",
    "fp8": "8-bit floats made when vLLM loads the model (--quantization fp8)",
    "int8": "8-bit integers in groups of 32 (what --weights requantize writes)",
    "int4": "4-bit integers in groups of 32 (what --weights repack makes of Q4_0)",
}
_EXPERT = re.compile(r"\.experts?\.|_exps|block_sparse_moe\.(input|output)_linear|experts\.(gate_up|down)_proj")
_EMBEDDING = re.compile(
    r"(embed_tokens|word_embeddings|tok_embeddings|wte|position_embeddings|embed_tokens_per_layer)\b"
)
_HEAD = re.compile(r"(^|\.)(lm_head|output)\.")
_PACKED = re.compile(r"weight_(packed|scale|shape|zero_point)$|_(blocks|scales)$|\.(qweight|qzeros|g_idx|scales)$")
_FLOATS = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}
MAX_TENSORS = 1 << 20


@dataclass(frozen=True, slots=True)
class TensorSize:
    """`nbytes` as served. `packed`: integers and scales of a quantized matrix, which no dtype changes."""

    name: str
    parameters: int
    nbytes: int
    matrix: bool
    packed: bool = False

    @property
    def expert(self) -> bool:
        return self.matrix and _EXPERT.search(self.name) is not None

    @property
    def embedding(self) -> bool:
        return _EMBEDDING.search(self.name) is not None

    @property
    def linear(self) -> bool:
        """Whether quantization applies: matrices other than the embedding and the head."""
        return self.matrix and not self.embedding and _HEAD.search(self.name) is None


@dataclass(frozen=True, slots=True)
class Weights:
    """`nbytes` in GPU memory (all GPUs together). `read_bytes` of them are read for every token, besides the
    `expert_bytes`, of which a token reads `experts_per_token` out of `experts`. Embedding rows are looked up, not
    read whole. `active_parameters` are multiplied for every token. `exact`: counted from files, not from a config.
    """

    way: str
    nbytes: int
    parameters: int
    active_parameters: int
    read_bytes: int
    expert_bytes: int
    experts: int
    experts_per_token: int
    exact: bool
    origin: str
    compute: str

    def bytes_read(self, tokens: float) -> float:
        """Bytes of weights that a step with so many tokens reads: the experts that at least one of them is sent to."""
        if not self.experts:
            return float(self.read_bytes)
        missed = float((1 - self.experts_per_token / self.experts) ** tokens)
        return self.read_bytes + self.expert_bytes * (1 - missed)


def from_files(directory: Path, config: Config, dtype: str | None = None) -> list[TensorSize]:
    """What the safetensors files of a checkpoint directory hold, in the dtype it is served in.

    Raises NotFound when there are none, StoreError for damaged ones.
    """
    paths = sorted(directory.glob("*.safetensors"))
    if not paths:
        raise NotFound(f"{directory}: no safetensors files", hint="plan from its config.json alone with --config")
    found = ((t.name, t.dtype, t.shape, t.nbytes) for path in paths for t in read_safetensors(path))
    return from_tensors(found, config, dtype)


def from_tensors(
    tensors: Iterable[tuple[str, str, tuple[int, ...], int]], config: Config, dtype: str | None = None
) -> list[TensorSize]:
    """`tensors` are (name, dtype as safetensors calls it, shape, bytes). Raises BadInput for far too many."""
    served, group = DTYPE_BYTES.get(dtype or config.dtype, 2), group_size(config)
    sizes: list[TensorSize] = []
    for name, kind, shape, nbytes in tensors:
        count, packed = prod(shape), _PACKED.search(name) is not None
        if packed:
            sizes.append(TensorSize(name, _unpacked(name, count, nbytes, group), nbytes, True, True))
        else:
            sizes.append(
                TensorSize(name, count, count * served if kind in _FLOATS else nbytes, _is_matrix(name, shape))
            )
        if len(sizes) > MAX_TENSORS:
            raise BadInput(f"{config.name}: more than {MAX_TENSORS:,} tensors: not a model")
    return sizes


def _is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and not name.endswith("bias")


def group_size(config: Config) -> int | None:
    """Weights that share a scale, when the config says that they do in groups."""
    quantization = config.values.get("quantization_config")
    if not isinstance(quantization, Mapping):
        return None
    if quantization.get("quant_method") == "mxfp4":
        return GROUP
    candidates = [quantization.get("group_size")]
    groups = quantization.get("config_groups")
    for entry in groups.values() if isinstance(groups, Mapping) else ():
        weights = entry.get("weights") if isinstance(entry, Mapping) else None
        candidates.append(weights.get("group_size") if isinstance(weights, Mapping) else None)
    return next((size for size in candidates if isinstance(size, int) and 0 < size <= 1 << 16), None)


def _unpacked(name: str, count: int, nbytes: int, group: int | None) -> int:
    """Weights that a tensor of a quantized matrix stands for. They are counted once, at the scales where a scale has a
    known number of weights, else at the integers, which are taken for four bits each."""
    scale = name.endswith(("scale", "scales"))
    if group is not None:
        return count * group if scale else 0
    return nbytes * 2 if name.endswith(("weight_packed", "qweight", "_blocks")) else 0


def from_config(config: Config, dtype: str | None = None) -> list[TensorSize]:
    """What a checkpoint with this config holds, by the table of its architecture.

    Raises:
        Refused: an architecture that has no table here.
        BadInput: a key is missing.
    """
    architecture = for_model_type(config.model_type)
    values = {key: value for key, value in config.values.items() if value is not None} | _defaults(config)
    item = DTYPE_BYTES.get(dtype or config.dtype, 2)
    try:
        dimensions = architecture.dimensions(values)
        rules = [rule for rule in architecture.tensors if not rule.group or _present(rule.group, config)]
        sizes: list[TensorSize] = []
        for rule in (rule for rule in rules if not rule.per_layer):
            sizes += _sized(rule, rule.target, dimensions, item, config)
        for index in range(config.layers):
            layer = architecture.layer(values, index)
            own = {**dimensions, **layer.sizes}
            for rule in rules:
                if rule.per_layer and (not rule.kind or rule.kind in layer.kinds):
                    sizes += _sized(rule, rule.target.replace("{i}", str(index)), own, item, config)
    except (KeyError, TypeError, IndexError) as error:
        what = f"{error} is" if isinstance(error, KeyError) else "a size that its architecture needs is"
        raise BadInput(
            f"{config.name}: {what} missing or of no use", hint="pass the model's whole config.json"
        ) from None
    return [_as_released(size, config) for size in sizes]


def _as_released(size: TensorSize, config: Config) -> TensorSize:
    """A tensor in the format that the config's quantization_config names."""
    quantization = config.values.get("quantization_config")
    if not isinstance(quantization, Mapping) or not size.linear:
        return size
    method, group = str(quantization.get("quant_method")), group_size(config)
    scales = 2 * (size.parameters // group) if group else 0
    if method == "mxfp4":
        if not size.expert:
            return size
        nbytes = size.parameters // 2 + size.parameters // GROUP
    elif method == "fp8":
        nbytes = size.parameters
    elif isinstance(bits := _bits(quantization), int):
        nbytes = size.parameters * bits // 8 + scales
    else:
        return size
    return TensorSize(size.name, size.parameters, nbytes, True, True)


def _bits(quantization: Mapping[str, Any]) -> int | None:
    """Bits of a weight; None when the config does not say."""
    candidates = [quantization.get("bits"), quantization.get("w_bit")]
    groups = quantization.get("config_groups")
    for entry in groups.values() if isinstance(groups, Mapping) else ():
        weights = entry.get("weights") if isinstance(entry, Mapping) else None
        candidates.append(weights.get("num_bits") if isinstance(weights, Mapping) else None)
    return next((bits for bits in candidates if isinstance(bits, int) and 1 <= bits <= 16), None)


def _sized(rule: Tensor, target: str, sizes: Mapping[str, int], item: int, config: Config) -> Iterator[TensorSize]:
    shapes = [resolve(words, sizes) for _, words in rule.sources]
    if any(size < 1 for shape in shapes for size in shape):
        found = " and ".join(" x ".join(map(str, shape)) for shape in shapes)
        raise BadInput(
            f"{config.name}: {target} would be {found}: a size is missing or zero",
            hint="pass the model's whole config.json",
        )
    count = sum(prod(shape) for shape in shapes)
    yield TensorSize(target, count, count * item, _is_matrix(target, shapes[0]))


def _defaults(config: Config) -> dict[str, object]:
    """What published configs leave to their class."""
    found: dict[str, object] = {
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "layer_types": layer_kinds(config),
    }
    for key, value in (
        ("n_group", 1),
        ("topk_group", 1),
        ("first_k_dense_replace", 0),
        ("n_shared_experts", 0),
        ("q_lora_rank", 0),
        ("shared_intermediate_size", 0),
        ("mlp_only_layers", []),
        ("decoder_sparse_step", 1),
        ("moe_intermediate_size", config.values.get("intermediate_size")),
        ("num_kv_shared_layers", 0),
        ("hidden_size_per_layer_input", 0),
        ("vocab_size_per_layer_input", config.values.get("vocab_size")),
        ("use_double_wide_mlp", False),
        ("attention_k_eq_v", False),
        ("num_ln_in_parallel_attn", None),
        ("global_head_dim", 512),
        ("num_global_key_value_heads", None),
        ("num_experts", None),
        ("type_vocab_size", 2),
        ("num_kv_heads", config.kv_heads),
        ("ffn_hidden_size", config.values.get("intermediate_size") or 4 * config.integer("hidden_size")),
    ):
        if config.values.get(key) is None:
            found[key] = value
    if config.has("qk_nope_head_dim"):
        found["qk_head_dim"] = config.integer("qk_nope_head_dim") + config.integer("qk_rope_head_dim")
        found["head_dim"] = config.integer("qk_rope_head_dim")
    if config.model_type == "falcon" and not config.values.get("new_decoder_architecture"):
        found["num_kv_heads"] = 1 if config.values.get("multi_query", True) else config.heads
    return found


_BIASED = ("attention_bias", "attention_bias_qkv", "qkv_bias", "use_qkv_bias", "use_bias", "bias")


def _present(group: str, config: Config) -> bool:
    """Whether the optional tensors of a group are in a checkpoint with this config."""
    values = config.values
    biased = any(values.get(key) for key in _BIASED)
    known = {
        "output": not values.get("tie_word_embeddings", config.model_type in _TIED),
        "q": not values.get("q_lora_rank"),
        "q_a": bool(values.get("q_lora_rank")),
        "k_b": False,
        "gate and up fused": False,
        "gate and up apart": bool(values.get("num_experts") or values.get("intermediate_size")),
        "separate z": False,
        "experts": bool(values.get("num_experts") or values.get("num_local_experts")),
        "shared experts": bool(values.get("n_shared_experts") or values.get("shared_intermediate_size")),
        "per-layer embeddings": bool(values.get("hidden_size_per_layer_input")),
        "per-layer inputs": bool(values.get("hidden_size_per_layer_input")),
        "attention biases": biased,
        "qkv biases": biased or config.model_type.startswith("qwen2"),
        "q, k and v biases": biased or config.model_type.startswith("qwen2"),
        "MLP biases": bool(values.get("mlp_bias")),
        "output bias": False,
        "q and k norms": bool(values.get("qk_layernorm") or values.get("use_qk_norm")),
    }
    if config.model_type == "gemma4" and group == "gate and up apart":
        return known["experts"]
    return known.get(group, True)


_TIED = frozenset({"gemma", "gemma2", "gemma3", "gemma4", "cohere", "cohere2", "lfm2"})
"""Classes whose head is the embedding unless the config says otherwise."""


def weigh(
    sizes: Sequence[TensorSize], config: Config, way: str = "dense", *, exact: bool, origin: str, label: str = ""
) -> Weights:
    """The weights of a model, stored in one of `WAYS`. What is quantized already stays as it is; `label` is then the
    name of the way it was stored in.

    Raises UsageError for another way.
    """
    if way not in WAYS:
        raise UsageError(f"--weights {way}: must be {', '.join(WAYS)}")
    sized = [(size, _stored(size, way)) for size in sizes]
    experts = next(
        (config.count(key) for key in ("num_experts", "num_local_experts", "n_routed_experts") if config.count(key)), 0
    )
    used = config.count("num_experts_per_tok") or config.count("top_k_experts") or experts
    expert_bytes = sum(nbytes for size, nbytes in sized if size.expert) if experts else 0
    lookup = 0 if _tied(sizes) else sum(nbytes for size, nbytes in sized if size.embedding)
    total = sum(nbytes for _, nbytes in sized)
    parameters = sum(size.parameters for size in sizes)
    routed = sum(size.parameters for size in sizes if size.expert) if experts else 0
    rows = 0 if _tied(sizes) else sum(size.parameters for size in sizes if size.embedding)
    active = parameters - rows - routed + (routed * used // experts if experts else 0)
    return Weights(
        label or way,
        total,
        parameters,
        active,
        total - lookup - expert_bytes,
        expert_bytes,
        experts if expert_bytes else 0,
        min(used, experts) if expert_bytes else 0,
        exact,
        origin,
        _compute(sizes, config, way),
    )


def _stored(size: TensorSize, way: str) -> int:
    if way == "dense" or size.packed or not size.linear:
        return size.nbytes
    if way == "fp8":
        return size.parameters
    bits = 8 if way == "int8" else 4
    return size.parameters * bits // 8 + 2 * (size.parameters // GROUP)


def _tied(sizes: Iterable[TensorSize]) -> bool:
    return not any(_HEAD.search(size.name) for size in sizes)


def _compute(sizes: Sequence[TensorSize], config: Config, way: str) -> str:
    """The dtype matrices are multiplied in: weight-only formats compute in 16 bits."""
    quantization = config.values.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
    if way == "fp8" or method == "fp8":
        return "fp8"
    return "float32" if config.dtype == "float32" else "float16"


def check_known(config: Config) -> None:
    """Raises Refused for an architecture without a table, with what can be done."""
    try:
        for_model_type(config.model_type)
    except Refused as error:
        raise Refused(str(error), hint="plan from a directory with the model's safetensors: they are counted") from None
