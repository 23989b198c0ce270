"""ADAPTER: a LoRA on top of the base, which vLLM serves under a name of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from migrate.errors import GGUFError, NotFound
from migrate.findings import Ledger, Status
from migrate.gguf.header import GGUFHeader, read_header
from migrate.ollama.model import OllamaModel
from migrate.vllm.serve import Argument

MAX_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` accepts (vllm/config/lora.py)."""
DIRECTORY = "adapters/lora"


@dataclass(frozen=True, slots=True)
class Adapter:
    """`rank` is the largest rank of its factors."""

    header: GGUFHeader
    rank: int

    @property
    def max_rank(self) -> int:
        return next(r for r in MAX_LORA_RANKS if r >= self.rank)


def map_adapter(model: OllamaModel, ledger: Ledger) -> Adapter | None:
    """The one adapter of a model; several, or one that cannot be read, is a refusal in the ledger."""
    if not model.adapters:
        return None
    layers = ", ".join(a.digest or str(a.path) for a in model.adapters)
    if len(model.adapters) > 1:
        ledger.add("ADAPTER", Status.REFUSED, layers, "", "Ollama adds several adapters up; vLLM uses one per request",
                   "merge them into one before `ollama create`")  # fmt: skip
        return None
    path = model.adapters[0].path
    if path is None:
        ledger.add("ADAPTER", Status.REFUSED, layers, "", "the adapter is not on this machine", "pass --models-dir")
        return None
    try:
        adapter = _read(path)
    except (GGUFError, NotFound) as error:
        ledger.add("ADAPTER", Status.REFUSED, layers, "", str(error), error.hint or "")
        return None
    if adapter.rank > MAX_LORA_RANKS[-1]:
        reason = f"vLLM takes ranks up to {MAX_LORA_RANKS[-1]}"
        action = "merge the adapter into the base before `ollama create`"
        ledger.add("ADAPTER", Status.REFUSED, f"rank {adapter.rank}", "", reason, action)
        return None
    ledger.add(
        "ADAPTER",
        Status.EQUIVALENT,
        f"GGUF LoRA, rank {adapter.rank}",
        f"{DIRECTORY} (PEFT), max-lora-rank {adapter.max_rank}",
        "the same factors and alpha; the model's name selects the adapter, NAME-base is the model without it",
    )
    return adapter


def _read(path: Path) -> Adapter:
    header = read_header(path)
    ranks = [t.torch_shape[0] for name, t in header.tensors.items() if name.endswith(".lora_a")]
    if header.kind != "adapter" or not ranks:
        raise GGUFError(
            f"{path.name}: not a LoRA adapter (general.type {header.kind!r}, {len(ranks)} pairs of factors)"
        )
    return Adapter(header, max(ranks))


def base_name(names: Sequence[str]) -> str:
    """How the model without its adapter is called."""
    return f"{names[0]}-base"


def model_names(names: list[str], adapter: Adapter | None) -> list[Argument]:
    """Names under which vLLM serves the model, and the adapter if there is one."""
    if adapter is None:
        return [Argument("served-model-name", names, "the name in Ollama")]
    modules = [f"{name}={DIRECTORY}" for name in names if "=" not in name]
    return [
        Argument("served-model-name", [base_name(names)], "the model without its ADAPTER"),
        Argument("enable-lora", True, "ADAPTER"),
        Argument("lora-modules", modules, "the name in Ollama selects the adapter"),
        Argument("max-lora-rank", adapter.max_rank, f"the adapter has rank {adapter.rank}"),
    ]
