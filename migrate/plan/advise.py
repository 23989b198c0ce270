"""All of it for every GPU: does it fit, how fast, how many, what does it cost, and why the losers lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from migrate.plan import cost as costs
from migrate.plan import density as densities
from migrate.plan import throughput
from migrate.plan.cache import CUDA_BLOCK, FLASH_MLA_BLOCK, CachePlan, CacheSettings, cpu_settings, plan_cache
from migrate.plan.config import Config
from migrate.plan.cost import Cost
from migrate.plan.density import Density
from migrate.plan.figures import Figure, gib
from migrate.plan.gpus import Gpu
from migrate.plan.layers import Kind, LayerCache, growing_bytes_per_token
from migrate.plan.memory import Budget, ServerSettings, budget
from migrate.plan.throughput import ASSUMED, Efficiency, Instance, Load, Operating, ServiceLevel
from migrate.plan.weights import Weights
from migrate.vllm.gpus import BFLOAT16, MXFP4, PACKED_INTEGERS

SHARING = (1, 2, 4, 8)
"""GPUs that may share one model (tensor parallel): as many as a machine has."""


@dataclass(frozen=True, slots=True)
class Model:
    """What is to be served. `alternatives`: bytes of other ways to store the weights."""

    name: str
    config: Config
    layers: tuple[LayerCache, ...]
    weights: Weights
    alternatives: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What it is to do. `rate` in requests a minute, `budget` in dollars a month. `measured`: efficiencies by the name
    of the GPU they were measured on."""

    load: Load
    settings: ServerSettings
    level: ServiceLevel = throughput.DEFAULT_SERVICE_LEVEL
    rate: float | None = None
    budget: float | None = None
    kv_cache_dtype: str = "auto"
    instances_per_gpu: int | None = None
    density_gain: float | None = None
    measured: Mapping[str, tuple[Efficiency, Efficiency, Efficiency]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """One GPU. `reason` says what rules it out, empty when nothing does; `notes` what else to know.

    `memory`, `cache` and so on are None where the row ended before them. `rates` are requests a minute of one instance
    (low, likely, high), `per_gpu` those of all instances on one GPU; `alone`: output tokens a second of a lone user.
    """

    gpu: Gpu
    reason: str = ""
    notes: tuple[str, ...] = ()
    gpus_per_instance: int = 1
    memory: Budget | None = None
    cache: CachePlan | None = None
    settings: ServerSettings | None = None
    operating: Operating | None = None
    rates: tuple[float, float, float] | None = None
    density: Density | None = None
    per_gpu: float | None = None
    alone: float | None = None
    cost: Cost | None = None
    figures: tuple[Figure, ...] = ()

    @property
    def wins(self) -> bool:
        return not self.reason

    @property
    def kv_cache_memory_bytes(self) -> int | None:
        """What each of several instances on one GPU is to be given (--kv-cache-memory-bytes); None for a single one,
        which measures for itself."""
        if self.memory is None or self.density is None or self.density.instances < 2:
            return None
        return self.memory.requested // self.density.instances - self.memory.weights - self.memory.overhead

    def to_dict(self, model: Model) -> dict[str, Any]:
        """The row for --json. Bytes, requests a minute, dollars; null where it is not known."""
        cache, memory, at, found = self.cache, self.memory, self.operating, self.cost
        available = max(0, memory.kv_cache) if memory else 0
        token = growing_bytes_per_token(model.layers, cache.settings.item_bytes) if cache else None
        return {
            "gpu": self.gpu.name,
            "fits": self.wins,
            "reason": self.reason or None,
            "notes": list(self.notes),
            "weights_bytes": model.weights.nbytes,
            "kv_bytes_per_token": token,
            "kv_cache_bytes": memory.kv_cache if memory else None,
            "kv_cache_bytes_range": list(memory.kv_cache_range) if memory else None,
            "activation_bytes": memory.activation.value if memory else None,
            "max_model_len": cache.settings.max_model_len if cache else None,
            "longest_context": cache.longest(available, model.config.integer("max_position_embeddings", 1 << 20))
            if cache and cache.groups
            else None,
            "kv_cache_tokens": cache.tokens(available) if cache and cache.groups else None,
            "max_concurrency": round(cache.concurrency(available), 2) if cache and cache.groups else None,
            "batch": at.batch if at else None,
            "requests_per_minute": round(at.per_minute, 1) if at else None,
            "requests_per_minute_range": [round(rate, 1) for rate in self.rates] if self.rates else None,
            "requests_per_minute_per_gpu": round(self.per_gpu, 1) if self.per_gpu is not None else None,
            "output_tokens_per_second": round(at.output_tokens_per_second, 1) if at else None,
            "single_user_tokens_per_second": round(self.alone, 1) if self.alone is not None else None,
            "ttft_ms": round(at.ttft * 1000, 1) if at else None,
            "itl_ms": round(at.itl * 1000, 2) if at else None,
            "gpus_per_instance": self.gpus_per_instance,
            "instances_per_gpu": self.density.instances if self.density else None,
            "kv_cache_memory_bytes": self.kv_cache_memory_bytes,
            "density": self.density.reason if self.density else None,
            "density_source": self.density.source if self.density else None,
            "instances": found.instances if found else None,
            "gpus": found.gpus if found else None,
            "hourly_cost": _rounded(found.hourly) if found else None,
            "monthly_cost": round(found.monthly[1], 2) if found and found.monthly else None,
            "monthly_cost_range": _rounded(found.monthly) if found else None,
            "cost_per_million_tokens": _rounded(found.per_million_tokens, 4) if found else None,
            "price_date": self.gpu.price.date if self.gpu.price else None,
            "figures": [figure.to_dict() for figure in self.figures],
        }


def _rounded(values: Sequence[float] | None, digits: int = 2) -> list[float] | None:
    return None if values is None else [round(value, digits) for value in values]


def advise(model: Model, wanted: Wanted, table: Sequence[Gpu]) -> list[Row]:
    """A row for every GPU: those that do it by monthly cost, then those that do not."""
    rows = [_row(model, wanted, gpu) for gpu in table]
    return sorted(rows, key=lambda row: (not row.wins, _monthly(row), row.gpu.name))


def _monthly(row: Row) -> float:
    return row.cost.monthly[1] if row.cost and row.cost.monthly else float("inf")


def _row(model: Model, wanted: Wanted, gpu: Gpu) -> Row:
    notes: list[str] = []
    if reason := _unsupported(model, gpu, notes):
        return Row(gpu, reason, tuple(notes))
    settings = wanted.settings.resolved(gpu)
    tries = []
    for count in SHARING:
        if count > 1 and (model.config.heads % count or gpu.compute_capability is None or not model.layers):
            continue
        cache = plan_cache(model.layers, cache_settings(model, wanted, gpu, settings, count))
        memory = budget(gpu, model.config, model.layers, model.weights.nbytes, settings, tensor_parallel=count)
        tries.append((count, cache, memory))
        missing = _missing(cache, memory, settings.max_model_len)
        if missing <= 0:
            break
    (_, first_cache, first), (count, cache, memory) = tries[0], tries[-1]
    short = _missing(first_cache, first, settings.max_model_len)
    figures = tuple(memory_figures(model, cache, memory))
    if _missing(cache, memory, settings.max_model_len) > 0:
        longest = cache.longest(max(0, memory.kv_cache), settings.max_model_len)
        with_less = f"; it would with --max-model-len {longest}" if longest >= wanted.load.total else ""
        many = f" on {count}" if count > 1 else ""
        reason = f"does not fit{many} by {gib(_missing(cache, memory, settings.max_model_len))}{with_less}"
        return Row(gpu, reason, tuple(notes), count, memory, cache, settings, figures=figures)
    if count > 1:
        notes.append(f"needs {count}: one lacks {gib(short)}")
    if memory.kv_cache_range[0] < cache.request_bytes(settings.max_model_len):
        notes.append("close: may not start if activation or CUDA graphs take more than is likely")
    if wanted.load.total > settings.max_model_len:
        reason = f"a request of {wanted.load.total:,} tokens is longer than the context of {settings.max_model_len:,}"
        return Row(gpu, reason, tuple(notes), count, memory, cache, settings, figures=figures)
    return _measured_row(model, wanted, Row(gpu, "", tuple(notes), count, memory, cache, settings, figures=figures))


def _measured_row(model: Model, wanted: Wanted, row: Row) -> Row:
    """The row with its rates, density and cost."""
    gpu, memory, cache, settings = row.gpu, row.memory, row.cache, row.settings
    assert memory is not None
    assert cache is not None
    assert settings is not None
    assert settings.max_num_seqs is not None
    instance = Instance(
        model.config, model.layers, model.weights, gpu, row.gpus_per_instance, cache.settings.item_bytes
    )
    most = settings.max_num_seqs
    if cache.groups:
        most = min(most, int(cache.concurrency(memory.kv_cache, wanted.load.total)))
    efficiencies = wanted.measured.get(gpu.name, ASSUMED)
    found = [throughput.best(instance, wanted.load, most, wanted.level, efficiency) for efficiency in efficiencies]
    likely = found[1]
    if likely is None:
        return replace(row, reason=_too_slow(instance, wanted, efficiencies[1], most))
    rates = tuple(at.per_minute if at else 0.0 for at in found)
    fitting = _fitting(model, wanted, row, likely)
    if (wanted.instances_per_gpu or 1) > fitting and row.gpus_per_instance == 1:
        return replace(row, reason=f"no room for {wanted.instances_per_gpu} instances, only for {fitting}")
    host = efficiencies[1].host + likely.batch * efficiencies[1].host_per_request
    density = densities.advise(
        model.config,
        model.weights.parameters,
        fits=fitting,
        host_share=host / likely.step,
        measured_gain=wanted.density_gain,
        asked=wanted.instances_per_gpu if row.gpus_per_instance == 1 else None,
        calibrated=gpu.name in wanted.measured,
        generates=bool(model.layers),
        enough=wanted.rate is not None and costs.instances_for(wanted.rate, likely.per_minute) == 1,
    )
    together = 1 + max(0.0, density.gain[0]) if density.instances > 1 else 1.0
    per_gpu = likely.per_minute * together
    capacity = per_gpu / density.instances
    instances = costs.instances_for(wanted.rate, capacity)
    if density.instances > 1:
        instances = -(-instances // density.instances) * density.instances
    carried = wanted.rate if wanted.rate is not None else capacity * throughput.HEADROOM
    price = costs.cost(
        gpu,
        instances=instances,
        gpus_per_instance=row.gpus_per_instance,
        instances_per_gpu=density.instances,
        tokens_per_second=carried / 60 * wanted.load.total,
    )
    figures = (
        *row.figures,
        *throughput.figures(instance, likely, efficiencies[1]),
        *costs.figures(gpu, price, wanted.rate, capacity, carried / 60 * wanted.load.total),
    )
    reason = ""
    if wanted.budget is not None:
        if price.monthly is None:
            reason = "no price in the table"
        elif price.monthly[1] > wanted.budget:
            reason = f"over the budget by ${price.monthly[1] - wanted.budget:,.0f} a month"
    return replace(
        row,
        reason=reason,
        operating=likely,
        rates=(rates[0], rates[1], rates[2]),
        density=density,
        per_gpu=per_gpu / row.gpus_per_instance,
        alone=throughput.alone(instance, wanted.load, efficiencies[1]) if model.layers else None,
        cost=price,
        figures=figures,
    )


def _too_slow(instance: Instance, wanted: Wanted, efficiency: Efficiency, most: int) -> str:
    if most < 1:
        return "no request of this length fits in the cache"
    one = throughput.operate(instance, wanted.load, 1, efficiency)
    limits = (
        ("ttft", one.ttft, wanted.level.ttft),
        ("itl", one.itl, wanted.level.itl),
        ("e2e", one.e2e, wanted.level.e2e),
    )
    missed = [f"{name} {value * 1000:,.0f} ms" for name, value, limit in limits if limit is not None and value > limit]
    return f"too slow for the service level: {', '.join(missed)} with a single request"


def _fitting(model: Model, wanted: Wanted, row: Row, at: Operating) -> int:
    """Instances for which one GPU has room, each with its copy of the weights and its part of the requests' cache."""
    memory, cache = row.memory, row.cache
    assert memory is not None
    assert cache is not None
    if row.gpus_per_instance > 1:
        return 1
    fitting = 1
    for count in range(2, 9):
        left = memory.requested // count - memory.weights - memory.overhead
        longest, each = cache.request_bytes(cache.settings.max_model_len), cache.request_bytes(wanted.load.total)
        needed = max(longest + cache.block_bytes, each * -(-int(at.batch) // count))
        if left < needed:
            break
        fitting = count
    return fitting


def _missing(cache: CachePlan, memory: Budget, max_model_len: int) -> int:
    """Bytes that one request of full length lacks; at most zero when it fits."""
    return cache.request_bytes(max_model_len) + cache.block_bytes - memory.kv_cache


def cache_settings(model: Model, wanted: Wanted, gpu: Gpu, settings: ServerSettings, count: int) -> CacheSettings:
    """How vLLM lays out the cache on this GPU."""
    assert settings.max_num_batched_tokens is not None
    tokens = settings.max_num_batched_tokens
    if gpu.compute_capability is None:
        dtype = model.config.dtype
        return cpu_settings(model.layers, settings.max_model_len, dtype, max_num_batched_tokens=tokens)
    latent = any(layer.kind is Kind.LATENT for layer in model.layers)
    large = latent and gpu.compute_capability >= (9, 0)
    item = throughput.cache_item_bytes(model.config, wanted.kv_cache_dtype)
    block = FLASH_MLA_BLOCK if large else CUDA_BLOCK
    return CacheSettings(settings.max_model_len, tokens, item, count, block)


def _unsupported(model: Model, gpu: Gpu, notes: list[str]) -> str:
    """Why vLLM does not run these weights on this GPU; "" when it does."""
    capability, config, way = gpu.compute_capability, model.config, model.weights.way
    quantization = config.values.get("quantization_config")
    method = str(quantization.get("quant_method")) if isinstance(quantization, Mapping) else ""
    if capability is None:
        return "no kernels for quantized weights on a CPU" if way != "dense" or method else ""
    if config.dtype == "bfloat16" and capability < BFLOAT16:
        return "no bfloat16 (vLLM asks for --dtype half, which changes the numbers)"
    if method == "mxfp4" and capability < MXFP4:
        return "no kernels for MXFP4"
    if (way == "fp8" or method == "fp8") and "fp8" not in gpu.tflops:
        if capability < PACKED_INTEGERS:
            return "no FP8"
        notes.append("no FP8 units: the weights are smaller, the arithmetic is 16 bits")
    elif (way in ("int8", "int4", "repack", "requantize") or method) and capability < PACKED_INTEGERS:
        return "no kernels for packed integers"
    return ""


def memory_figures(model: Model, cache: CachePlan, memory: Budget) -> list[Figure]:
    """The figures of memory and cache with their formulas."""
    item, count = cache.settings.item_bytes, cache.settings.tensor_parallel
    token = growing_bytes_per_token(model.layers, item, count)
    told = [
        Figure(
            "weights",
            model.weights.nbytes,
            "bytes",
            "sum of all tensors" if model.weights.exact else "sum of the tensors such a config has",
            f"{model.weights.parameters:,} parameters, {model.weights.way}",
            model.weights.origin,
        ),
        Figure("cache per token", token, "bytes", *_token_formula(model.layers, item, count)),
        *memory.figures(),
    ]
    if not cache.groups:
        return told
    available, length = max(0, memory.kv_cache), cache.settings.max_model_len
    blocks, each = cache.blocks(available), cache.blocks_per_request(length)
    groups = " + ".join(
        f"{group.blocks(length, cache.settings)} ({group.layers} layers, {group.kind})" for group in cache.groups
    )
    return [
        *told,
        Figure("blocks", blocks, "", "KV cache / bytes of a block",
               f"{gib(available)} / {cache.block_bytes:,}", _UTILS),
        Figure("blocks of a full request", each, "", "sum over groups of layers", groups, _UTILS),
        Figure("max concurrency", cache.concurrency(available), "x", "blocks / blocks of a full request",
               f"{blocks:,} / {each:,} at {length:,} tokens", _UTILS),
        Figure("KV cache size", cache.tokens(available), "tokens", "max concurrency x max-model-len",
               f"{cache.concurrency(available):.2f} x {length:,}", _UTILS),
    ]  # fmt: skip


_UTILS = "vLLM v1/core/kv_cache_utils.py"


def _token_formula(layers: Sequence[LayerCache], item: int, count: int) -> tuple[str, str, str]:
    kinds: dict[LayerCache, int] = {}
    for layer in layers:
        kinds[layer] = kinds.get(layer, 0) + 1
    parts = []
    for layer, number in kinds.items():
        if layer.kind is Kind.STATE:
            parts.append(f"{number} layers keep a state of {layer.state_bytes:,} bytes per request")
        elif layer.kind is Kind.SLIDING:
            parts.append(f"{number} layers stop growing at {layer.window:,} tokens")
        elif layer.kind is Kind.LATENT:
            parts.append(f"{number} layers x {layer.values} values x {item} bytes")
        else:
            heads = max(1, layer.heads // count)
            parts.append(f"{number} layers x {heads} heads x 2 x {layer.values // 2} values x {item} bytes")
    return "layers x kv heads x (keys + values) x bytes", "; ".join(parts), "config.json"
