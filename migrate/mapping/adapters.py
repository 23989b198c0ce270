"""ADAPTER: a LoRA on top of the base, which vLLM serves under a name of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from migrate.errors import BadInput, GGUFError, NotFound, Refused
from migrate.findings import Ledger, Status
from migrate.gguf.header import GGUFHeader, read_header
from migrate.ollama.model import OllamaModel
from migrate.vllm.serve import Argument

MAX_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` accepts (vllm/config/lora.py)."""
DIRECTORY = "adapters/lora"
PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")
MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA: a GGUF (`header`) or a PEFT directory. `rank` is the largest rank of its factors.

    `merged`: it is folded into the weights and served under no name of its own.
    """

    rank: int
    header: GGUFHeader | None = None
    directory: Path | None = None
    merged: bool = False

    @property
    def max_rank(self) -> int:
        return next(r for r in MAX_LORA_RANKS if r >= self.rank)

    @property
    def files(self) -> list[Path]:
        """What is read of it."""
        if self.directory is not None:
            return [self.directory / name for name in PEFT_FILES]
        return [self.header.path] if self.header else []


def map_adapter(model: OllamaModel, ledger: Ledger, *, merge: bool = False) -> Adapter | None:
    """The one adapter of a model; several, or one that cannot be read, is a refusal in the ledger."""
    if not model.adapters:
        if merge:
            ledger.add("ADAPTER", Status.REFUSED, "", "", "--merge-adapter, but the model has no ADAPTER")
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
        adapter = _read_peft(path) if path.is_dir() else _read(path)
    except (GGUFError, NotFound, BadInput, Refused) as error:
        ledger.add("ADAPTER", Status.REFUSED, layers, "", str(error), error.hint or "")
        return None
    if adapter.header is not None and model.checkpoint is not None:
        reason = "a GGUF adapter beside a checkpoint directory: its rows are in llama.cpp's order"
        ledger.add("ADAPTER", Status.REFUSED, layers, "", reason, "name the adapter's PEFT directory instead")
        return None
    return _merged(adapter, ledger) if merge else _served(adapter, ledger)


def _merged(adapter: Adapter, ledger: Ledger) -> Adapter | None:
    if adapter.header is None:
        reason = "only a GGUF adapter can be folded in here"
        action = "leave --merge-adapter out (vLLM serves the adapter beside the model), or merge with PEFT"
        ledger.add("ADAPTER", Status.REFUSED, str(adapter.directory), "", reason, action)
        return None
    ledger.add(
        "ADAPTER",
        Status.EQUIVALENT,
        f"GGUF LoRA, rank {adapter.rank}",
        "folded into the weights",
        "w + scale b a in float32, rounded once; Ollama adds the product to what the quantized weights give",
    )
    return replace(adapter, merged=True)


def _served(adapter: Adapter, ledger: Ledger) -> Adapter | None:
    if adapter.rank > MAX_LORA_RANKS[-1]:
        reason = f"vLLM takes ranks up to {MAX_LORA_RANKS[-1]}"
        action = "pass --merge-adapter to fold it into the weights"
        ledger.add("ADAPTER", Status.REFUSED, f"rank {adapter.rank}", "", reason, action)
        return None
    kind = "GGUF LoRA" if adapter.header else "PEFT directory"
    ledger.add(
        "ADAPTER",
        Status.EQUIVALENT,
        f"{kind}, rank {adapter.rank}",
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
    return Adapter(max(ranks), header=header)


def _read_peft(directory: Path) -> Adapter:
    """A directory as PEFT saves it, if vLLM can serve it as it is (vllm/lora/peft_helper.py says what it refuses)."""
    for name in PEFT_FILES:
        if not (directory / name).is_file():
            hint = "vLLM reads adapters as PEFT saves them; MLX's have to be converted first."
            raise BadInput(f"{directory}: {name} is missing", hint=hint)
    try:
        config = json.loads((directory / PEFT_FILES[0]).read_bytes()[:MAX_CONFIG_BYTES])
    except ValueError as error:
        raise BadInput(f"{directory / PEFT_FILES[0]}: not JSON: {error}") from None
    rank = config.get("r") if isinstance(config, dict) else None
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise BadInput(f"{directory / PEFT_FILES[0]}: r is {rank!r}, not a rank")
    for key in ("use_dora", "modules_to_save"):
        if config.get(key):
            raise Refused(f"{directory}: an adapter with {key}, which vLLM does not serve", hint="Merge it with PEFT.")
    ranks = [value for value in (config.get("rank_pattern") or {}).values() if isinstance(value, int)]
    return Adapter(max([rank, *ranks]), directory=directory)


def base_name(names: Sequence[str]) -> str:
    """How the model without its adapter is called."""
    return f"{names[0]}-base"


def model_names(names: list[str], adapter: Adapter | None) -> list[Argument]:
    """Names under which vLLM serves the model, and the adapter if there is one."""
    if adapter is None or adapter.merged:
        return [Argument("served-model-name", names, "the name in Ollama")]
    modules = [f"{name}={DIRECTORY}" for name in names if "=" not in name]
    return [
        Argument("served-model-name", [base_name(names)], "the model without its ADAPTER"),
        Argument("enable-lora", True, "ADAPTER"),
        Argument("lora-modules", modules, "the name in Ollama selects the adapter"),
        Argument("max-lora-rank", adapter.max_rank, f"the adapter has rank {adapter.rank}"),
    ]
