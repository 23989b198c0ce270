"""Llama, and what is built like it: Llama 1 to 3.x, Mistral, Yi, Vicuna, SmolLM, TinyLlama and their fine-tunes.

llama.cpp converts Mistral as architecture "llama" and a GGUF does not say which it was. Without a sliding window the
two compute the same thing, so such files stay model_type "llama"; only a sliding-window key makes one a `mistral` (see
there).
"""

from __future__ import annotations

from migrate.architectures.base import Architecture, Config, Source
from migrate.architectures.rope import ROPE_FREQS, rope_parameters
from migrate.architectures.tensors import Tensor, Unpermute
from migrate.errors import Refused

LAYER = "model.layers.{i}"

TENSORS = (
    Tensor("token_embd.weight", "model.embed_tokens.weight", ("vocab", "hidden")),
    Tensor("blk.{i}.attn_norm.weight", f"{LAYER}.input_layernorm.weight", ("hidden",)),
    Tensor("blk.{i}.attn_q.weight", f"{LAYER}.self_attn.q_proj.weight", ("q", "hidden"), Unpermute("heads")),
    Tensor("blk.{i}.attn_k.weight", f"{LAYER}.self_attn.k_proj.weight", ("kv", "hidden"), Unpermute("kv_heads")),
    Tensor("blk.{i}.attn_v.weight", f"{LAYER}.self_attn.v_proj.weight", ("kv", "hidden")),
    Tensor("blk.{i}.attn_output.weight", f"{LAYER}.self_attn.o_proj.weight", ("hidden", "q")),
    Tensor("blk.{i}.attn_q.bias", f"{LAYER}.self_attn.q_proj.bias", ("q",), Unpermute("heads"), "attention biases"),
    Tensor("blk.{i}.attn_k.bias", f"{LAYER}.self_attn.k_proj.bias", ("kv",), Unpermute("kv_heads"), "attention biases"),
    Tensor("blk.{i}.attn_v.bias", f"{LAYER}.self_attn.v_proj.bias", ("kv",), group="attention biases"),
    Tensor("blk.{i}.attn_output.bias", f"{LAYER}.self_attn.o_proj.bias", ("hidden",), group="attention biases"),
    Tensor("blk.{i}.ffn_norm.weight", f"{LAYER}.post_attention_layernorm.weight", ("hidden",)),
    Tensor("blk.{i}.ffn_gate.weight", f"{LAYER}.mlp.gate_proj.weight", ("intermediate", "hidden")),
    Tensor("blk.{i}.ffn_up.weight", f"{LAYER}.mlp.up_proj.weight", ("intermediate", "hidden")),
    Tensor("blk.{i}.ffn_down.weight", f"{LAYER}.mlp.down_proj.weight", ("hidden", "intermediate")),
    Tensor("blk.{i}.ffn_gate.bias", f"{LAYER}.mlp.gate_proj.bias", ("intermediate",), group="MLP biases"),
    Tensor("blk.{i}.ffn_up.bias", f"{LAYER}.mlp.up_proj.bias", ("intermediate",), group="MLP biases"),
    Tensor("blk.{i}.ffn_down.bias", f"{LAYER}.mlp.down_proj.bias", ("hidden",), group="MLP biases"),
    Tensor("output_norm.weight", "model.norm.weight", ("hidden",)),
    Tensor("output.weight", "lm_head.weight", ("vocab", "hidden"), group="output"),
)


def config(source: Source) -> Config:
    """`config.json` of a llama. Raises Refused for what the class LlamaForCausalLM cannot compute."""
    hidden, heads = source.integer("embedding_length"), source.integer("attention.head_count")
    if source.integer("expert_count", 0):
        raise Refused(
            f"{source.header.path.name}: a mixture of experts under architecture 'llama' (Mixtral); not supported yet",
            hint="Use the original checkpoint, or another way of --weights.",
        )
    head_dim = source.integer("attention.key_length", hidden // heads if heads else 0)
    _check_heads(source, head_dim)
    return {
        "vocab_size": vocab_size(source),
        "hidden_size": hidden,
        "intermediate_size": source.integer("feed_forward_length"),
        "num_hidden_layers": source.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": source.integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": source.integer("context_length"),
        "rms_norm_eps": source.number("attention.layer_norm_rms_epsilon"),
        "rope_parameters": rope_parameters(source, head_dim),
        "attention_bias": source.has("attention biases"),
        "mlp_bias": source.has("MLP biases"),
        "tie_word_embeddings": not source.has("output"),
    }


def vocab_size(source: Source) -> int:
    """Rows of the embedding: the only count that is always right (metadata and token list may be longer or shorter)."""
    embedding = source.header.tensors.get("token_embd.weight")
    return embedding.shape[-1] if embedding else source.integer("vocab_size")


def _check_heads(source: Source, head_dim: int) -> None:
    name = source.header.path.name
    if head_dim < 2 or head_dim % 2:
        raise Refused(f"{name}: heads of {head_dim} values cannot be rotated in pairs")
    if (value_length := source.integer("attention.value_length", head_dim)) != head_dim:
        raise Refused(f"{name}: keys of {head_dim} and values of {value_length} per head; a llama has one size")
    if (rotated := source.integer("rope.dimension_count", head_dim)) != head_dim:
        raise Refused(f"{name}: {rotated} of {head_dim} values per head are rotated; a llama rotates all")


def dimensions(config: Config) -> dict[str, int]:
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    return {
        "vocab": config["vocab_size"],
        "hidden": config["hidden_size"],
        "intermediate": config["intermediate_size"],
        "heads": heads,
        "kv_heads": kv_heads,
        "q": heads * config["head_dim"],
        "kv": kv_heads * config["head_dim"],
    }


ARCHITECTURE = Architecture(
    model_type="llama",
    class_name="LlamaForCausalLM",
    gguf_names=("llama",),
    tensors=TENSORS,
    config=config,
    dimensions=dimensions,
    fused={"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")},
    lora_targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    consumed=(ROPE_FREQS,),
)
