"""Models that are in Ollama and still cannot be moved."""

from __future__ import annotations

from migrate.findings import Finding, Status
from migrate.ollama.manifest import KNOWN, TENSOR
from migrate.ollama.model import OllamaModel


def refusal(model: OllamaModel) -> Finding | None:
    """Why this model cannot be moved at all; None when it has GGUF weights that could be."""
    config = model.config
    if config.get("remote_host") or config.get("remote_model"):
        where = f"{config.get('remote_model') or 'a model'} on {config.get('remote_host') or 'another host'}"
        return _refused(
            model, f"a cloud model: {where}; Ollama has no weights of it", "Pull a model that runs locally."
        )
    if "image" in model.capabilities:
        return _refused(model, "it generates images; only text and embedding models are moved", "")
    tensors = any(layer.media_type == TENSOR for layer in model.layers) or config.get("model_format") == "safetensors"
    if tensors and model.checkpoint is None:
        action = "Serve the Hugging Face checkpoint it was made from: vLLM reads it directly."
        return _refused(
            model, "made with `ollama create --experimental` for MLX and quantized: only MLX reads such tensors", action
        )
    if unknown := [layer for layer in model.layers if layer.media_type not in KNOWN]:
        kind = unknown[0].media_type
        return _refused(
            model, f"it has a layer of a kind that is not known here: {kind}", "Report it: it may change answers."
        )
    if model.gguf is None and model.gguf_path is None and not model.model_info:
        return _refused(model, "it has no weights", "")
    return None


def _refused(model: OllamaModel, reason: str, action: str) -> Finding:
    return Finding("model", Status.REFUSED, source=model.name, reason=reason, action=action)
