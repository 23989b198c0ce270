"""What of a GPU's memory is left for the KV cache, as vLLM accounts for it.

`determine_available_memory` in v1/worker/gpu_worker.py of 0.32:

    KV cache = total x gpu-memory-utilization - weights - peak activation - outside torch - CUDA graphs

Weights are counted; what vLLM measures in a profiling run is estimated here, with a range. Afterwards its log tells the
truth, and `measured` puts those numbers in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from migrate.errors import UsageError
from migrate.plan.config import Config
from migrate.plan.figures import GIB, Figure, gib
from migrate.plan.gpus import Gpu
from migrate.plan.layers import DTYPE_BYTES, Kind, LayerCache

UTILIZATION = 0.92
"""vLLM 0.32's default (config/cache.py)."""
NON_TORCH = (64 << 20, 160 << 20, 512 << 20)
"""Low, likely, high: 0.10 to 0.20 GiB in published logs of one GPU (#12330, #12126, #14447)."""
NON_TORCH_PARALLEL = (512 << 20, 1 << 30, 2 << 30)
"""With more than one GPU: NCCL's buffers (1.8 GiB more with two in #10511)."""
GRAPH_BYTES = (96 << 10, 288 << 10, 640 << 10)
"""Per captured graph and layer. 86 graphs took 0.73 GiB in a published log (#39559)."""
SAMPLER_BYTES, SORTING_SAMPLER_BYTES = 6, 41
"""Per request and word of the vocabulary: logits in 16 and in 32 bits (`_dummy_sampler_run` of the model runner V2,
0.32's default). The older runner sorts: values, indices and a workspace more (1.26 GiB for 256 x 128,256 in #10511)."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The flags of vLLM that decide about memory; None is its default for the GPU."""

    max_model_len: int
    utilization: float = UTILIZATION
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    enforce_eager: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.utilization <= 1:
            raise UsageError(f"--gpu-memory-utilization {self.utilization:g}: must be above 0 and at most 1")

    def resolved(self, gpu: Gpu) -> ServerSettings:
        """With vLLM's defaults for a GPU (`get_batch_defaults`): larger on cards from 70 GiB, A100 excepted."""
        if gpu.capability == "cpu":
            tokens, seqs = 2048, 128
        elif gpu.memory_gib >= 160:
            tokens, seqs = 16384, 1024
        elif gpu.memory_gib >= 70 and "A100" not in gpu.name.upper():
            tokens, seqs = 8192, 1024
        else:
            tokens, seqs = 2048, 256
        seqs = self.max_num_seqs or seqs
        tokens = self.max_num_batched_tokens or min(tokens, seqs * self.max_model_len)
        return replace(self, max_num_seqs=min(seqs, tokens), max_num_batched_tokens=tokens)


@dataclass(frozen=True, slots=True)
class Range:
    """An estimate: `value` is likely, the truth between `low` and `high`. `values`: how it was computed."""

    low: int
    value: int
    high: int
    values: str = ""

    @classmethod
    def exactly(cls, value: int) -> Range:
        return cls(value, value, value)

    def __str__(self) -> str:
        return gib(self.value) if self.low == self.high else f"{gib(self.value)} ({gib(self.low)} to {gib(self.high)})"


@dataclass(frozen=True, slots=True)
class Budget:
    """One GPU's memory. All in bytes; `weights`, and the rest, are this GPU's share."""

    total: int
    utilization: float
    weights: int
    activation: Range
    graphs: Range
    non_torch: Range

    @property
    def requested(self) -> int:
        """What vLLM may use; it does not start when less is free."""
        return int(self.total * self.utilization)

    @property
    def overhead(self) -> int:
        return self.activation.value + self.graphs.value + self.non_torch.value

    @property
    def kv_cache(self) -> int:
        """Bytes for the KV cache; negative when the model does not fit."""
        return self.requested - self.weights - self.overhead

    @property
    def kv_cache_range(self) -> tuple[int, int]:
        """Least and most, when every estimate is wrong in the same direction."""
        parts = (self.activation, self.graphs, self.non_torch)
        most = self.requested - self.weights - sum(part.low for part in parts)
        return self.requested - self.weights - sum(part.high for part in parts), most

    def figures(self) -> list[Figure]:
        values = (
            f"{gib(self.total)} x {self.utilization:g} - {gib(self.weights)} - {gib(self.activation.value)} - "
            f"{gib(self.graphs.value)} - {gib(self.non_torch.value)}"
        )
        formula = "total x gpu-memory-utilization - weights - activation - CUDA graphs - outside torch"
        source = "vLLM v1/worker/gpu_worker.py"
        return [
            _figure(
                "activation",
                self.activation,
                "max(tokens x widest moment of a layer, hidden state + requests x vocabulary x sampler)",
            ),
            _figure("CUDA graphs", self.graphs, "graphs x layers x bytes of one layer in one graph"),
            _figure("outside torch", self.non_torch, "seen in published logs: CUDA libraries, NCCL with several GPUs"),
            Figure("KV cache", self.kv_cache, "bytes", formula, values, source),
        ]


def _figure(name: str, part: Range, formula: str) -> Figure:
    values = f"{part.values} = {part}" if part.values else str(part)
    return Figure(name, part.value, "bytes", formula, values, "estimate; vLLM measures it when it starts")


def measured(
    total: float, utilization: float, weights: float, non_torch: float, activation: float, graphs: float = 0.0
) -> Budget:
    """A budget from the terms of a start-up log, in GiB."""
    parts = [Range.exactly(round(value * GIB)) for value in (activation, graphs, non_torch)]
    return Budget(round(total * GIB), utilization, round(weights * GIB), *parts)


def budget(
    gpu: Gpu,
    config: Config,
    layers: Sequence[LayerCache],
    weights: int,
    settings: ServerSettings,
    *,
    tensor_parallel: int = 1,
) -> Budget:
    """The memory of one GPU out of `tensor_parallel` that share a model of `weights` bytes. `settings` are resolved."""
    assert settings.max_num_batched_tokens is not None
    assert settings.max_num_seqs is not None
    activation = activation_bytes(
        config, layers, settings, tensor_parallel=tensor_parallel, fused=gpu.compute_capability is not None
    )
    graphs = Range.exactly(0)
    if not settings.enforce_eager and gpu.compute_capability is not None:
        count = captured_graphs(settings.max_num_seqs, settings.max_num_batched_tokens)
        low, likely, high = (count * config.layers * nbytes for nbytes in GRAPH_BYTES)
        graphs = Range(low, likely, high, f"{count} x {config.layers} x {GRAPH_BYTES[1] >> 10} KiB")
    outside = NON_TORCH if tensor_parallel == 1 else NON_TORCH_PARALLEL
    return Budget(gpu.memory, settings.utilization, -(-weights // tensor_parallel), activation, graphs, Range(*outside))


def captured_graphs(max_num_seqs: int, max_num_batched_tokens: int, limit: int = 512) -> int:
    """CUDA graphs captured by default: mixed batches up to `limit` tokens, and decoding up to max-num-seqs.

    Sizes 1, 2, 4, then every 8th to 256, then every 16th (`_set_cudagraph_sizes`, mode FULL_AND_PIECEWISE).
    """
    largest = min(2 * max_num_seqs, limit, max_num_batched_tokens)
    sizes: list[int] = [1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, 16)]
    mixed = [size for size in sizes if size <= largest]
    return len(mixed) + len([size for size in mixed if size <= max_num_seqs])


def activation_bytes(
    config: Config,
    layers: Sequence[LayerCache],
    settings: ServerSettings,
    *,
    tensor_parallel: int = 1,
    fused: bool = True,
    sorting: bool = False,
) -> Range:
    """Peak of what a step computes and forgets, in vLLM's profiling run: as many tokens as a batch may have.

    `fused`: see `forward_bytes`. `sorting`: with the sampler of the older model runner.
    """
    tokens, sequences = settings.max_num_batched_tokens or 0, settings.max_num_seqs or 0
    forward = forward_bytes(config, layers, tokens, tensor_parallel, fused=fused)
    item, hidden, vocab = DTYPE_BYTES.get(config.dtype, 2), config.integer("hidden_size"), config.integer("vocab_size")
    rows = min(sequences, tokens)

    def sampler(per_logit: int) -> int:
        return tokens * hidden * item + rows * vocab * per_logit

    per_logit = SORTING_SAMPLER_BYTES if sorting else SAMPLER_BYTES
    peak = max(forward, sampler(per_logit))
    values = (
        f"max({tokens:,} x {forward // max(1, tokens):,} bytes, {tokens:,} x {hidden:,} x {item} + "
        f"{rows:,} x {vocab:,} x {per_logit} bytes)"
    )
    return Range(peak * 7 // 10, peak, max(peak * 3 // 2, sampler(SORTING_SAMPLER_BYTES)), values)


def forward_bytes(
    config: Config, layers: Sequence[LayerCache], tokens: int, tensor_parallel: int = 1, *, fused: bool = True
) -> int:
    """Peak of one forward pass, in bytes: the widest moment of a layer beside the hidden state and the residual.

    Attention: queries, keys, values and the result. Dense block: gate and up together, and their product. Experts: both
    for every expert a token is sent to, and its output. `fused`: norms and activations are one kernel, as on GPUs;
    else they leave a copy each (on a CPU the formula was compared with real vLLM, see docs/capacity.md).
    """
    hidden, item = config.integer("hidden_size"), DTYPE_BYTES.get(config.dtype, 2)
    head = config.integer("qk_nope_head_dim", 0) + config.integer("qk_rope_head_dim", 0) if _latent(layers) else 0
    queries = config.heads * (head or _widest_head(config))
    keys = max((layer.heads * layer.values for layer in layers), default=0)
    if _latent(layers):
        keys = config.heads * (head + config.integer("v_head_dim", head))
    attention = (2 * queries + keys) // tensor_parallel
    width = config.integer("intermediate_size", 4 * hidden) * (2 if config.values.get("use_double_wide_mlp") else 1)
    dense = (3 if fused else 4) * width // tensor_parallel
    used = config.count("num_experts_per_tok") or config.count("top_k_experts")
    routed = 0
    if used:
        narrow = config.count("moe_intermediate_size") or config.integer("intermediate_size", 4 * hidden)
        routed = used * (3 * narrow // tensor_parallel + hidden)
    return int(tokens * item * ((2 if fused else 4) * hidden + max(attention, dense, routed)))


def _latent(layers: Sequence[LayerCache]) -> bool:
    return any(layer.kind is Kind.LATENT for layer in layers)


def _widest_head(config: Config) -> int:
    return max(config.head_dim, config.count("global_head_dim"))
