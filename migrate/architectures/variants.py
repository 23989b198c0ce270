"""Ollama's own GGUF files, brought to the form llama.cpp's converter writes. Standard library only.

Ollama's converter and its library wrote some architectures in their own way; those files stay on disks for ever. Ollama
itself mends them while loading (llama/compat/llama-ollama-compat.cpp, Ollama 0.33); this mends the header the same way,
so that an architecture has one form to know. Nothing here reads or changes a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from migrate.findings import Finding, Status
from migrate.gguf.header import GGUFHeader, TensorInfo

_TOWERS = ("v.", "mm.", "a.", "s.", "model.vision_tower.")
"""Prefixes of vision and audio encoders, and of what connects them, when they are inside the model's file."""
_TOWER_KEYS = ("vision.", "audio.", "mm.", "sam.", "image_token_id", "vision_start_token_id", "vision_end_token_id")


def normalise(header: GGUFHeader) -> tuple[GGUFHeader, list[Finding]]:
    """The header as an architecture expects it, and what was changed. A file that needs nothing comes back as it is."""
    draft = _Draft(header)
    if mend := _VARIANTS.get(draft.architecture):
        mend(draft)
    _leave_out_towers(draft)
    return draft.finished()


class _Draft:
    """A header being mended, and the list of what was done to it."""

    def __init__(self, header: GGUFHeader) -> None:
        self.header = header
        self.metadata: dict[str, Any] = dict(header.metadata)
        self.tensors: dict[str, TensorInfo] = dict(header.tensors)
        self.notes: list[str] = []
        self.findings: list[Finding] = []

    @property
    def architecture(self) -> str:
        value = self.metadata.get("general.architecture")
        return value if isinstance(value, str) else ""

    def get(self, key: str) -> Any:
        return self.metadata.get(f"{self.architecture}.{key}")

    def has_tensors(self, *prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in self.tensors)

    def set(self, key: str, value: Any, note: str = "") -> None:
        """Give a key of the architecture a value."""
        name = f"{self.architecture}.{key}"
        if self.metadata.get(name) != value:
            self.metadata[name] = value
            self.notes.append(note or f"{key} = {value}")

    def default(self, key: str, value: Any) -> None:
        """Give a key of the architecture a value unless it has one."""
        if self.get(key) is None:
            self.set(key, value)

    def rename_key(self, old: str, new: str) -> None:
        value = self.metadata.pop(f"{self.architecture}.{old}", None)
        if value is not None:
            self.default(new, value)

    def rename_architecture(self, name: str) -> None:
        old = self.architecture
        self.notes.append(f"architecture {old!r} is {name!r}")
        self.metadata = {
            (f"{name}.{key[len(old) + 1 :]}" if key.startswith(f"{old}.") else key): value
            for key, value in self.metadata.items()
        }
        self.metadata["general.architecture"] = name

    def rename_tensors(self, change: Callable[[str], str]) -> None:
        renamed = {change(name): info for name, info in self.tensors.items()}
        if renamed.keys() != self.tensors.keys():
            old, new = next((a, b) for a, b in zip(self.tensors, renamed, strict=True) if a != b)
            self.notes.append(f"tensors renamed ({old} -> {new}, ...)")
        self.tensors = {name: replace(info, name=name) for name, info in renamed.items()}

    def finished(self) -> tuple[GGUFHeader, list[Finding]]:
        if self.notes:
            reason = "written by Ollama's own converter; read as Ollama 0.33 reads it: " + "; ".join(self.notes)
            was = str(self.header.metadata.get("general.architecture"))
            self.findings.append(Finding("GGUF", Status.EQUIVALENT, was, self.architecture, reason))
        if not self.findings:
            return self.header, []
        metadata = MappingProxyType(self.metadata)
        return replace(self.header, metadata=metadata, tensors=MappingProxyType(self.tensors)), self.findings


def _leave_out_towers(draft: _Draft) -> None:
    towers = [name for name in draft.tensors if name.startswith(_TOWERS)]
    if not towers:
        return
    draft.tensors = {name: info for name, info in draft.tensors.items() if name not in set(towers)}
    prefix = f"{draft.architecture}."
    draft.metadata = {
        key: value
        for key, value in draft.metadata.items()
        if not (key.startswith(prefix) and key[len(prefix) :].startswith(_TOWER_KEYS))
    }
    reason = "the model's images or audio encoder is inside this file; it has no way into vLLM, the text model has"
    action = "for images or audio serve the original Hugging Face checkpoint"
    draft.findings.append(
        Finding("FROM (encoder)", Status.DROPPED, f"{len(towers)} tensors ({towers[0]}, ...)", "", reason, action)
    )


def _gemma3(draft: _Draft) -> None:
    draft.rename_key("rope.global.freq_base", "rope.freq_base")
    draft.rename_key("rope.local.freq_base", "rope.freq_base_swa")
    own = draft.has_tensors("v.", "mm.") or draft.get("attention.layer_norm_rms_epsilon") is None
    if own or draft.notes:
        draft.default("attention.layer_norm_rms_epsilon", 1e-6)
        draft.default("rope.freq_base", 1_000_000.0)
        draft.default("rope.freq_base_swa", 10_000.0)
        if (draft.get("context_length") or 0) >= 131_072:
            # The 4B, 12B and 27B stretch a context of 16k by eight; the 1B does not.
            draft.default("rope.scaling.type", "linear")
            draft.default("rope.scaling.factor", 8.0)
        _gemma3_heads(draft)


_GEMMA3_HEADS = {34: (8, 4), 48: (16, 8), 62: (32, 16)}
"""Heads and kv heads by number of layers, which Ollama's first files of the 4B, 12B and 27B leave out."""


def _gemma3_heads(draft: _Draft) -> None:
    heads = _GEMMA3_HEADS.get(draft.get("block_count") or 0)
    if heads:
        draft.default("attention.head_count", heads[0])
        draft.default("attention.head_count_kv", heads[1])
        draft.default("attention.key_length", 128 if heads[0] == 32 else 256)
        draft.default("attention.value_length", 128 if heads[0] == 32 else 256)


def _gemma4(draft: _Draft) -> None:
    draft.rename_tensors(lambda name: name.replace(".ffn_gate_inp.per_expert_scale", ".ffn_down_exps.scale"))
    if draft.metadata.get("tokenizer.ggml.model") == "llama" and "tokenizer.ggml.merges" in draft.metadata:
        draft.metadata["tokenizer.ggml.model"] = "gemma4"
        draft.notes.append("the tokenizer is BPE (gemma4), not SentencePiece")


def _gptoss(draft: _Draft) -> None:
    draft.rename_architecture("gpt-oss")
    gate = draft.tensors.get("blk.0.ffn_gate_exps.weight")
    if gate:
        draft.default("expert_feed_forward_length", gate.shape[1])
        draft.default("feed_forward_length", gate.shape[1])
    draft.default("rope.scaling.type", "yarn")
    draft.metadata["tokenizer.ggml.pre"] = "gpt-4o"
    draft.rename_tensors(_gptoss_name)


def _gptoss_name(name: str) -> str:
    if name.endswith(".attn_sinks"):
        return name + ".weight"
    return name.replace(".attn_out.", ".attn_output.").replace(".ffn_norm.", ".post_attention_norm.")


def _qwen35(draft: _Draft) -> None:
    heads = draft.get("attention.head_count_kv")
    if isinstance(heads, tuple) and heads:
        draft.set("attention.head_count_kv", max(heads), "attention.head_count_kv is a list with 0 for linear layers")
    draft.rename_tensors(lambda name: f"{name}.bias" if name.endswith(".ssm_dt") else name)
    for key in ("ssm.v_head_reordered", "rope.mrope_interleaved", "rope.mrope_section", "mrope_sections"):
        draft.metadata.pop(f"{draft.architecture}.{key}", None)
    predicting = [name for name in draft.tensors if name.startswith("mtp.")]
    if predicting:
        draft.tensors = {name: info for name, info in draft.tensors.items() if not name.startswith("mtp.")}
        reason = "layers that predict further tokens (MTP) speed up answers and do not change them"
        draft.findings.append(Finding("tensors left out", Status.DROPPED, f"{len(predicting)} tensors", "", reason))


def _mistral3(draft: _Draft) -> None:
    for old, new in (
        ("rope.scaling.beta_fast", "rope.scaling.yarn_beta_fast"),
        ("rope.scaling.beta_slow", "rope.scaling.yarn_beta_slow"),
        ("rope.scaling.mscale_all_dim", "rope.scaling.yarn_log_multiplier"),
        ("rope.scaling_beta", "attention.temperature_scale"),
    ):
        draft.rename_key(old, new)
    if draft.notes or draft.has_tensors("v.", "mm."):
        _pre_tokenizer(draft, "tekken")


def _lfm2(draft: _Draft) -> None:
    if "token_embd_norm.weight" not in draft.tensors and "output_norm.weight" in draft.tensors:
        draft.rename_tensors(lambda name: "token_embd_norm.weight" if name == "output_norm.weight" else name)
        _pre_tokenizer(draft, "lfm2", always=True)
    gate = draft.tensors.get("blk.0.ffn_gate.weight")
    if gate and isinstance(draft.get("feed_forward_length"), int):
        draft.set("feed_forward_length", gate.shape[1])


def _glm4moelite(draft: _Draft) -> None:
    head_dim, rank, rotated = (
        draft.get(key) for key in ("attention.key_length", "attention.kv_lora_rank", "rope.dimension_count")
    )
    draft.rename_architecture("deepseek2")
    draft.set("attention.head_count_kv", 1)
    if all(isinstance(value, int) for value in (head_dim, rank, rotated)):
        draft.set("attention.key_length", rank + rotated)
        draft.set("attention.value_length", rank)
        draft.set("attention.key_length_mla", head_dim)
        draft.set("attention.value_length_mla", head_dim)
    draft.default("expert_group_count", 1)
    draft.default("expert_group_used_count", 1)
    draft.metadata["tokenizer.ggml.pre"] = "glm4"


def _qwen_vl(draft: _Draft) -> None:
    """The text part of Qwen-VL. Its three rotary positions are one for text, so it is a Qwen without eyes."""
    if draft.architecture == "qwen25vl":
        draft.rename_architecture("qwen2vl")
    names = ("rope.mrope_section", "rope.dimension_sections", "n_deepstack_layers", "mrope_sections")
    if not [draft.metadata.pop(f"{draft.architecture}.{name}") for name in names if draft.get(name) is not None]:
        return
    kind = draft.get("rope.scaling.type")
    if kind in ("mrope", "default"):
        draft.metadata.pop(f"{draft.architecture}.rope.scaling.type")
    reason = "text only: for text the three rotary positions of a Qwen-VL are equal, which is ordinary rotation"
    action = "for images serve the original Hugging Face checkpoint"
    draft.findings.append(
        Finding("architecture", Status.EQUIVALENT, draft.architecture, "the text model alone", reason, action)
    )


def _pre_tokenizer(draft: _Draft, name: str, *, always: bool = False) -> None:
    found = draft.metadata.get("tokenizer.ggml.pre")
    if always or found in (None, "", "default"):
        if found != name:
            draft.notes.append(f"pre-tokenizer {name}")
        draft.metadata["tokenizer.ggml.pre"] = name


_VARIANTS: Mapping[str, Callable[[_Draft], None]] = {
    "gemma3": _gemma3,
    "gemma4": _gemma4,
    "glm4moelite": _glm4moelite,
    "gptoss": _gptoss,
    "lfm2": _lfm2,
    "mistral3": _mistral3,
    "olmo3": lambda draft: draft.rename_architecture("olmo2"),
    "qwen25vl": _qwen_vl,
    "qwen2vl": _qwen_vl,
    "qwen35": _qwen35,
    "qwen35moe": _qwen35,
    "qwen3next": _qwen35,
    "qwen3vl": _qwen_vl,
    "qwen3vlmoe": _qwen_vl,
}
