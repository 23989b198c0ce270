"""Makes fixtures/architectures with transformers, torch and llama.cpp's own converter. Run by hand:

    python -m tests.architectures.make_families LLAMA_CPP [NAME ...]

LLAMA_CPP is a source tree of llama.cpp (the package `conversion` and `gguf-py` in it are used, nothing is built).
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from tests.architectures.families import ROOT, VOCAB, expected

ABSENT = object()
BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
TWO_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
"""Heads of 32, the smallest that vLLM's kernels for the CPU know, for classes that take them from the width."""


def rope(theta: float, **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta, **more}


YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
LINEAR_ATTENTION = {
    "num_hidden_layers": 4,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MROPE = rope(10000000.0, partial_rotary_factor=0.25, mrope_section=[2, 1, 1], mrope_interleaved=True)
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
    "sliding_attention": rope(10000.0),
}
GEMMA4_ROPE = {
    "full_attention": {"rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.25},
    "sliding_attention": rope(10000.0),
}
MLA = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "q_lora_rank": 48,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 24,
    "v_head_dim": 20,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
LATENT = MLA | {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "n_routed_experts": 4,
    "first_k_dense_replace": 0,
}
"""Latent attention of the one size that vLLM's kernels for the CPU know, DeepSeek's own. One layer, to be small."""
DEEPSEEK_YARN = YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0, 2.1],
    "long_factor": [1.0, 2.0, 4.0, 8.0, 12.0, 16.5, 20.0, 24.0, 28.0, 32.0, 36.0, 40.5],
    "partial_rotary_factor": 0.75,
    "original_max_position_embeddings": 128,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama",
        "head_dim": 32,
        "rope_parameters": LLAMA3,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "llama-yarn": {"model_type": "llama", "head_dim": 32, "rope_parameters": YARN, "tie_word_embeddings": True},
    "mixtral": {
        "model_type": "mixtral",
        "intermediate_size": 32,
        "head_dim": 32,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "rope_parameters": rope(1e6),
    },
    "qwen2": {"model_type": "qwen2", **TWO_HEADS, "rope_parameters": rope(1e6), "rms_norm_eps": 1e-6},
    "qwen3": {"model_type": "qwen3", "head_dim": 32, "rope_parameters": rope(1e6), "tie_word_embeddings": True},
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        "head_dim": 32,
        **EXPERTS,
        "norm_topk_prob": True,
        "rope_parameters": rope(1e6),
    },
    "qwen3_5": {"model_type": "qwen3_5_text", **LINEAR_ATTENTION, "rope_parameters": MROPE},
    "qwen3_5_moe": {
        "model_type": "qwen3_5_moe_text",
        "intermediate_size": ABSENT,
        **LINEAR_ATTENTION,
        **EXPERTS,
        "shared_expert_intermediate_size": 48,
        "rope_parameters": MROPE,
    },
    "gemma2": {"model_type": "gemma2", "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8},
    "gemma3": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 6,
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 8,
        "rope_parameters": GEMMA3_ROPE,
    },
    "gemma4": {
        "model_type": "gemma4_text",
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "head_dim": 32,
        "global_head_dim": 64,
        "num_kv_shared_layers": 2,
        "use_double_wide_mlp": True,
        "hidden_size_per_layer_input": 16,
        "vocab_size_per_layer_input": VOCAB,
        "final_logit_softcapping": 30.0,
        "sliding_window": 8,
        "rope_parameters": GEMMA4_ROPE,
    },
    "gemma4-moe": {
        "model_type": "gemma4_text",
        "num_hidden_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"],
        "head_dim": 32,
        "global_head_dim": 64,
        "num_global_key_value_heads": 1,
        "attention_k_eq_v": True,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 32,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": VOCAB,
        "sliding_window": 8,
        "rope_parameters": GEMMA4_ROPE,
    },
    "phi3": {
        "model_type": "phi3",
        **TWO_HEADS,
        "head_dim": 32,
        "rope_parameters": LONGROPE,
        "original_max_position_embeddings": 128,
        "sliding_window": None,
    },
    "gpt_oss": {
        "model_type": "gpt_oss",
        "head_dim": 32,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 8,
        "rope_parameters": YARN | {"rope_theta": 150000.0, "truncate": False},
    },
    "granite": {
        "model_type": "granite",
        **TWO_HEADS,
        "attention_multiplier": 0.0625,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "logits_scaling": 8.0,
        "tie_word_embeddings": True,
    },
    "deepseek_v2": {"model_type": "deepseek_v2", **MLA, "rope_parameters": DEEPSEEK_YARN, "routed_scaling_factor": 1.5},
    "deepseek_v2-lite": {
        "model_type": "deepseek_v2",
        **MLA,
        "q_lora_rank": None,
        "n_shared_experts": 2,
        "rope_parameters": rope(10000.0),
    },
    "deepseek_v3": {
        "model_type": "deepseek_v3",
        **MLA,
        "num_hidden_layers": 3,
        "n_group": 2,
        "topk_group": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
    },
    "deepseek_v2-512": {
        "model_type": "deepseek_v2",
        **LATENT,
        "rope_parameters": DEEPSEEK_YARN,
        "routed_scaling_factor": 1.5,
    },
    "deepseek_v3-512": {
        "model_type": "deepseek_v3",
        **LATENT,
        "n_group": 2,
        "topk_group": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
    },
    # second ring
    "qwen2_moe": {
        "model_type": "qwen2_moe",
        **TWO_HEADS,
        **EXPERTS,
        "shared_expert_intermediate_size": 48,
        "norm_topk_prob": False,
    },
    "qwen3_next": {
        # One layer of each kind, and the size of linear attention that vLLM's kernels for the CPU know.
        "model_type": "qwen3_next",
        **TWO_HEADS,
        **LINEAR_ATTENTION,
        "num_hidden_layers": 2,
        "layer_types": ["linear_attention", "full_attention"],
        "full_attention_interval": 2,
        "linear_key_head_dim": 64,
        "linear_value_head_dim": 64,
        **EXPERTS,
        "num_experts": 2,  # both asked: in bfloat16, which those kernels want, another expert may win by a hair
        "shared_expert_intermediate_size": 48,
        "norm_topk_prob": True,
        "rope_parameters": rope(1e7, partial_rotary_factor=0.25),
    },
    "gemma": {"model_type": "gemma", "head_dim": 32, "num_key_value_heads": 1},
    "granitemoe": {
        "model_type": "granitemoe",
        "intermediate_size": 64,
        **TWO_HEADS,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "attention_multiplier": 0.0625,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "logits_scaling": 6.0,
    },
    "olmo2": {"model_type": "olmo2", **TWO_HEADS, "rope_parameters": rope(500000.0), "rms_norm_eps": 1e-6},
    "olmo3": {
        "model_type": "olmo3",
        **TWO_HEADS,
        "num_hidden_layers": 4,
        "sliding_window": 8,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"full_attention": YARN, "sliding_attention": rope(10000.0)},
    },
    "starcoder2": {"model_type": "starcoder2", **TWO_HEADS, "norm_epsilon": 1e-5, "rope_parameters": rope(100000.0)},
    "stablelm": {
        "model_type": "stablelm",
        **TWO_HEADS,
        "use_qkv_bias": True,
        "rope_parameters": rope(10000.0, partial_rotary_factor=0.25),
    },
    "cohere": {"model_type": "cohere", **TWO_HEADS, "logit_scale": 0.0625, "rope_parameters": rope(8000000.0)},
    "cohere2": {
        "model_type": "cohere2",
        **TWO_HEADS,
        "num_hidden_layers": 4,
        "sliding_window": 8,
        "logit_scale": 0.25,
        "rope_parameters": rope(50000.0),
    },
    "falcon": {
        "model_type": "falcon",
        "num_kv_heads": 2,
        "new_decoder_architecture": True,
        "bias": False,
        "parallel_attn": True,
        "alibi": False,
        "intermediate_size": ABSENT,
        "max_position_embeddings": 2048,
    },
    "falcon-40b": {
        "model_type": "falcon",
        "num_attention_heads": 2,
        "num_kv_heads": 2,
        "num_key_value_heads": 2,
        "new_decoder_architecture": True,
        "bias": False,
        "parallel_attn": True,
        "alibi": False,
        "intermediate_size": ABSENT,
        "max_position_embeddings": 2048,
    },
    "falcon-7b": {
        "model_type": "falcon",
        "num_attention_heads": 2,
        "multi_query": True,
        "num_kv_heads": 1,
        "num_key_value_heads": 1,
        "new_decoder_architecture": False,
        "bias": False,
        "parallel_attn": True,
        "alibi": False,
        "intermediate_size": ABSENT,
        "max_position_embeddings": 2048,
    },
    "falcon-11b": {
        "model_type": "falcon",
        "num_attention_heads": 2,
        "num_kv_heads": 2,
        "num_key_value_heads": 2,
        "new_decoder_architecture": True,
        "num_ln_in_parallel_attn": 1,
        "bias": False,
        "parallel_attn": True,
        "alibi": False,
        "intermediate_size": ABSENT,
        "max_position_embeddings": 2048,
    },
    "glm4": {"model_type": "glm4", "head_dim": 32, "rope_parameters": rope(10000.0, partial_rotary_factor=0.5)},
    "exaone4": {
        "model_type": "exaone4",
        "num_hidden_layers": 4,
        "sliding_window": 8,
        "sliding_window_pattern": 4,
        "head_dim": 32,
        "rope_parameters": LLAMA3 | {"rope_theta": 1000000.0},
    },
    "lfm2": {
        "model_type": "lfm2",
        **TWO_HEADS,
        "num_hidden_layers": 3,
        "layer_types": ["conv", "full_attention", "conv"],
        "conv_L_cache": 3,
        "block_auto_adjust_ff_dim": False,
        "rope_parameters": rope(1000000.0),
    },
    "ernie4_5": {"model_type": "ernie4_5", "head_dim": 32, "rope_parameters": rope(500000.0), "use_bias": False},
    "seed_oss": {"model_type": "seed_oss", "head_dim": 32, "attention_bias": True, "rope_parameters": rope(1e7)},
    "ministral3": {
        "model_type": "ministral3",
        "head_dim": 32,
        "rope_parameters": YARN
        | {"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1, "rope_theta": 1e6},
    },
    "nemotron": {
        "model_type": "nemotron",
        **TWO_HEADS,
        "head_dim": 32,
        "rope_parameters": rope(10000.0, partial_rotary_factor=0.5),
    },
    "smollm3": {
        "model_type": "smollm3",
        **TWO_HEADS,
        "num_hidden_layers": 4,
        "no_rope_layers": [1, 1, 1, 0],
        "rope_parameters": rope(2000000.0),
    },
    "bert": {"model_type": "bert", **TWO_HEADS, "num_key_value_heads": ABSENT, "max_position_embeddings": 48},
    "nomic_bert": {
        "model_type": "nomic_bert",
        **TWO_HEADS,
        "max_position_embeddings": 2048,
        "pad_token_id": 0,
        "num_key_value_heads": ABSENT,
        "rope_parameters": rope(1000.0),
    },
    "internlm2": {
        "model_type": "internlm2",
        "hidden_size": 128,
        "intermediate_size": 24,
        "architectures": ["InternLM2ForCausalLM"],
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "bias": False,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    },
}
ENCODERS = ("bert", "nomic_bert")
ELSEWHERE: dict[str, dict[str, tuple[int, ...]]] = {
    # Families whose class is not in transformers: the tensors of their checkpoints.
    "internlm2": {
        "model.tok_embeddings.weight": (VOCAB, 128),
        "model.norm.weight": (128,),
        "output.weight": (VOCAB, 128),
        **{
            f"model.layers.{i}.{name}.weight": shape
            for i in range(2)
            for name, shape in (
                ("attention.wqkv", (256, 128)),
                ("attention.wo", (128, 128)),
                ("attention_norm", (128,)),
                ("ffn_norm", (128,)),
                ("feed_forward.w1", (24, 128)),
                ("feed_forward.w2", (128, 24)),
                ("feed_forward.w3", (24, 128)),
            )
        },
    },
}


CONVERTER_WANTS: dict[str, dict[str, Any]] = {
    "cohere2": {"rotary_pct": 1.0},
    "nomic_bert": {
        "n_positions": 8192,
        "max_trained_positions": 2048,
        "activation_function": "swiglu",
        "causal": False,
        "qkv_proj_bias": False,
        "mlp_fc1_bias": False,
        "mlp_fc2_bias": False,
        "prenorm": False,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "rotary_emb_scale_base": None,
        "rotary_emb_base": 1000.0,
    },
}
"""Keys llama.cpp's converter reads and transformers 5 no longer writes."""


def make(name: str, root: Path) -> None:
    """One directory: a model with weights by name, converted, and what transformers computes with it."""
    import torch

    with tempfile.TemporaryDirectory() as scratch:
        hf = Path(scratch) / name  # the converter names the model after it
        hf.mkdir()
        settings = {key: value for key, value in {**BASE, **FAMILIES[name]}.items() if value is not ABSENT}
        tensors = _remote(name, settings, hf) if name in ELSEWHERE else _by_class(name, settings, hf)
        target = root / name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        short = {torch.bfloat16: "BF16", torch.float32: "F32"}
        listed = {key: (short[t.dtype], list(t.shape)) for key, t in tensors.items()}
        (target / "tensors.json").write_text(json.dumps(listed, indent=0) + "\n")
        shutil.copyfile(hf / "config.json", target / "config.json")
        computed = _as_llama(settings, tensors, hf / "llama") if name in ELSEWHERE else hf
        (target / "reference.json").write_text(json.dumps(_reference(name, computed)) + "\n")
        to_gguf(hf, target / "model.gguf")


def _remote(name: str, settings: dict[str, Any], hf: Path) -> dict[str, Any]:
    import torch
    from safetensors.torch import save_file

    tensors = {
        key: torch.from_numpy(expected(key, shape).copy()).to(torch.bfloat16) for key, shape in ELSEWHERE[name].items()
    }
    save_file(tensors, hf / "model.safetensors", {"format": "pt"})
    (hf / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return tensors


def _as_llama(settings: dict[str, Any], tensors: dict[str, Any], out: Path) -> Path:
    """An InternLM2 in the words of a llama, which computes the same: q, k and v of every kv group taken apart."""
    from safetensors.torch import save_file

    heads, groups, hidden = (settings[k] for k in ("num_attention_heads", "num_key_value_heads", "hidden_size"))
    words = {
        "tok_embeddings": "embed_tokens",
        "attention.wo": "self_attn.o_proj",
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
    }
    renamed = {}
    for name, tensor in tensors.items():
        if "wqkv" in name:
            grouped = tensor.view(groups, heads // groups + 2, hidden // heads, hidden)
            for part, rows in (("q", grouped[:, :-2]), ("k", grouped[:, -2]), ("v", grouped[:, -1])):
                renamed[name.replace("attention.wqkv", f"self_attn.{part}_proj")] = rows.reshape(-1, hidden).clone()
        else:
            new = "lm_head.weight" if name == "output.weight" else name
            for old, word in words.items():
                new = new.replace(old, word)
            renamed[new] = tensor
    out.mkdir()
    save_file(renamed, out / "model.safetensors", {"format": "pt"})
    config = settings | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (out / "config.json").write_text(json.dumps(config) + "\n")
    return out


def _by_class(name: str, settings: dict[str, Any], hf: Path) -> dict[str, Any]:
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    kind: Any = AutoModel if name in ENCODERS else AutoModelForCausalLM
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    kind.from_config(config, dtype=torch.bfloat16).save_pretrained(hf)
    saved = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps(saved | CONVERTER_WANTS.get(name, {}), indent=2) + "\n")
    (path,) = hf.glob("*.safetensors")
    tensors = {}
    for key, old in load_file(path).items():
        if not key.startswith("pooler."):  # llama.cpp leaves it out
            tensors[key] = torch.from_numpy(expected(key, tuple(old.shape)).copy()).to(old.dtype)
    save_file(tensors, path, {"format": "pt"})
    return tensors


TOKENS = {"ministral3": 100}
"""How long the text is, where 24 tokens would not show all: queries are scaled from position 64 on."""


def _reference(name: str, hf: Path) -> dict[str, Any]:
    """What transformers computes: the likeliest five next tokens at every position, or the first hidden values."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    kind: Any = AutoModel if name in ENCODERS else AutoModelForCausalLM
    # PyTorch's own attention would leave out what caps the scores of a Gemma 2.
    model, loading = kind.from_pretrained(
        hf, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    odd = {key: value for key, value in loading.items() if value and not all("pooler" in str(v) for v in value)}
    assert not odd, f"not what the class loads: {odd}"
    ids = [1, *((7 * i * i + 3 * i + 5) % (VOCAB - 5) + 3 for i in range(TOKENS.get(name, 24) - 1))]
    with torch.inference_mode():
        if name in ENCODERS:
            hidden = model(torch.tensor([ids])).last_hidden_state[0, :, :5]
            return {"token_ids": ids, "hidden": [[round(float(x), 6) for x in row] for row in hidden]}
        top = model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1).topk(5)
    rows = zip(top.indices, top.values, strict=True)
    return {
        "token_ids": ids,
        "top5": [[[int(i), round(float(p), 6)] for i, p in zip(*row, strict=True)] for row in rows],
    }


def to_gguf(hf: Path, out: Path) -> None:
    """llama.cpp's converter, with a vocabulary of bytes instead of one that it would have to recognise."""
    import gguf
    import torch
    from conversion import get_model_class
    from conversion.base import TextModel

    logging.disable(logging.INFO)
    architecture = json.loads((hf / "config.json").read_text())["architectures"][0]
    converter = get_model_class(architecture)

    def set_vocab(self: Any) -> None:
        writer = self.gguf_writer
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(VOCAB - 3))])
        writer.add_token_scores([0.0] * VOCAB)
        writer.add_token_types([2, 3, 3] + [6] * (VOCAB - 3))
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)

    # Gemma 3's converter counts the vocabulary in it, to cut the embedding.
    counted = {"model": {"type": "WordPiece", "vocab": dict.fromkeys(map(str, range(VOCAB)))}, "added_tokens": []}
    (hf / "tokenizer.json").write_text(json.dumps(counted))
    if hasattr(converter, "no_mtp"):
        converter.no_mtp = True  # there are no layers that predict further tokens
    with contextlib.ExitStack() as stack, torch.inference_mode():
        for part in _and_below(TextModel):
            if "set_vocab" in vars(part):
                stack.enter_context(mock.patch.object(part, "set_vocab", set_vocab))
        converter(hf, gguf.LlamaFileType.MOSTLY_BF16, out).write()


def _and_below(kind: type) -> list[type]:
    found = [kind]
    children: list[type] = kind.__subclasses__()
    for child in children:
        found += _and_below(child)
    return found


def main(arguments: list[str]) -> None:
    llama_cpp, *names = arguments
    sys.path[:0] = [llama_cpp, f"{llama_cpp}/gguf-py"]
    for name in names or FAMILIES:
        try:
            make(name, ROOT)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {str(error)[:300]}")
        else:
            print(f"{name}: {(ROOT / name / 'model.gguf').stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
