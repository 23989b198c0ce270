"""Which repository a tag of Ollama's library was made from, as model cards said in November 2026.

Every line is a guess until the weights have proved it, so a line that has become wrong costs a moment, no more.
A tag without a line, such as a quantization of one that has, is looked up without what follows the size.
"""

from __future__ import annotations

import re

REPOSITORIES = {
    "codellama:7b": "codellama/CodeLlama-7b-Instruct-hf",
    "codellama:13b": "codellama/CodeLlama-13b-Instruct-hf",
    "codellama:34b": "codellama/CodeLlama-34b-Instruct-hf",
    "command-r:35b": "CohereForAI/c4ai-command-r-08-2024",
    "deepseek-coder:1.3b": "deepseek-ai/deepseek-coder-1.3b-instruct",
    "deepseek-coder:6.7b": "deepseek-ai/deepseek-coder-6.7b-instruct",
    "deepseek-coder:33b": "deepseek-ai/deepseek-coder-33b-instruct",
    "deepseek-coder-v2:16b": "deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct",
    "deepseek-r1:1.5b": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    "deepseek-r1:7b": "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
    "deepseek-r1:8b": "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B",
    "deepseek-r1:14b": "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B",
    "deepseek-r1:32b": "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B",
    "deepseek-r1:70b": "deepseek-ai/DeepSeek-R1-Distill-Llama-70B",
    "exaone3.5:2.4b": "LGAI-EXAONE/EXAONE-3.5-2.4B-Instruct",
    "falcon3:1b": "tiiuae/Falcon3-1B-Instruct",
    "falcon3:3b": "tiiuae/Falcon3-3B-Instruct",
    "falcon3:7b": "tiiuae/Falcon3-7B-Instruct",
    "falcon3:10b": "tiiuae/Falcon3-10B-Instruct",
    "gemma:2b": "google/gemma-1.1-2b-it",
    "gemma:7b": "google/gemma-1.1-7b-it",
    "gemma2:2b": "google/gemma-2-2b-it",
    "gemma2:9b": "google/gemma-2-9b-it",
    "gemma2:27b": "google/gemma-2-27b-it",
    "gemma3:270m": "google/gemma-3-270m-it",
    "gemma3:1b": "google/gemma-3-1b-it",
    "gemma3:4b": "google/gemma-3-4b-it",
    "gemma3:12b": "google/gemma-3-12b-it",
    "gemma3:27b": "google/gemma-3-27b-it",
    "gpt-oss:20b": "openai/gpt-oss-20b",
    "gpt-oss:120b": "openai/gpt-oss-120b",
    "granite3.3:2b": "ibm-granite/granite-3.3-2b-instruct",
    "granite3.3:8b": "ibm-granite/granite-3.3-8b-instruct",
    "llama2:7b": "meta-llama/Llama-2-7b-chat-hf",
    "llama2:13b": "meta-llama/Llama-2-13b-chat-hf",
    "llama2:70b": "meta-llama/Llama-2-70b-chat-hf",
    "llama3:8b": "meta-llama/Meta-Llama-3-8B-Instruct",
    "llama3:70b": "meta-llama/Meta-Llama-3-70B-Instruct",
    "llama3.1:8b": "meta-llama/Llama-3.1-8B-Instruct",
    "llama3.1:70b": "meta-llama/Llama-3.1-70B-Instruct",
    "llama3.2:1b": "meta-llama/Llama-3.2-1B-Instruct",
    "llama3.2:3b": "meta-llama/Llama-3.2-3B-Instruct",
    "llama3.3:70b": "meta-llama/Llama-3.3-70B-Instruct",
    "mistral:7b": "mistralai/Mistral-7B-Instruct-v0.3",
    "mistral-nemo:12b": "mistralai/Mistral-Nemo-Instruct-2407",
    "mistral-small:24b": "mistralai/Mistral-Small-24B-Instruct-2501",
    "mixtral:8x7b": "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "mixtral:8x22b": "mistralai/Mixtral-8x22B-Instruct-v0.1",
    "nomic-embed-text:v1.5": "nomic-ai/nomic-embed-text-v1.5",
    "olmo2:7b": "allenai/OLMo-2-1124-7B-Instruct",
    "olmo2:13b": "allenai/OLMo-2-1124-13B-Instruct",
    "phi3:mini": "microsoft/Phi-3-mini-4k-instruct",
    "phi3:medium": "microsoft/Phi-3-medium-128k-instruct",
    "phi3.5:3.8b": "microsoft/Phi-3.5-mini-instruct",
    "phi4:14b": "microsoft/phi-4",
    "phi4-mini:3.8b": "microsoft/Phi-4-mini-instruct",
    "qwen2:0.5b": "Qwen/Qwen2-0.5B-Instruct",
    "qwen2:1.5b": "Qwen/Qwen2-1.5B-Instruct",
    "qwen2:7b": "Qwen/Qwen2-7B-Instruct",
    "qwen2.5:0.5b": "Qwen/Qwen2.5-0.5B-Instruct",
    "qwen2.5:1.5b": "Qwen/Qwen2.5-1.5B-Instruct",
    "qwen2.5:3b": "Qwen/Qwen2.5-3B-Instruct",
    "qwen2.5:7b": "Qwen/Qwen2.5-7B-Instruct",
    "qwen2.5:14b": "Qwen/Qwen2.5-14B-Instruct",
    "qwen2.5:32b": "Qwen/Qwen2.5-32B-Instruct",
    "qwen2.5:72b": "Qwen/Qwen2.5-72B-Instruct",
    "qwen2.5-coder:0.5b": "Qwen/Qwen2.5-Coder-0.5B-Instruct",
    "qwen2.5-coder:1.5b": "Qwen/Qwen2.5-Coder-1.5B-Instruct",
    "qwen2.5-coder:3b": "Qwen/Qwen2.5-Coder-3B-Instruct",
    "qwen2.5-coder:7b": "Qwen/Qwen2.5-Coder-7B-Instruct",
    "qwen2.5-coder:14b": "Qwen/Qwen2.5-Coder-14B-Instruct",
    "qwen2.5-coder:32b": "Qwen/Qwen2.5-Coder-32B-Instruct",
    "qwen3:0.6b": "Qwen/Qwen3-0.6B",
    "qwen3:1.7b": "Qwen/Qwen3-1.7B",
    "qwen3:4b": "Qwen/Qwen3-4B-Thinking-2507",
    "qwen3:8b": "Qwen/Qwen3-8B",
    "qwen3:14b": "Qwen/Qwen3-14B",
    "qwen3:30b": "Qwen/Qwen3-30B-A3B-Thinking-2507",
    "qwen3:32b": "Qwen/Qwen3-32B",
    "qwen3-coder:30b": "Qwen/Qwen3-Coder-30B-A3B-Instruct",
    "qwq:32b": "Qwen/QwQ-32B",
    "smollm2:135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "smollm2:360m": "HuggingFaceTB/SmolLM2-360M-Instruct",
    "smollm2:1.7b": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
    "starcoder2:3b": "bigcode/starcoder2-3b",
    "starcoder2:7b": "bigcode/starcoder2-7b",
    "tinyllama:1.1b": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
}
LATEST = {
    "codellama": "7b",
    "deepseek-r1": "8b",
    "gemma2": "9b",
    "gemma3": "4b",
    "gpt-oss": "20b",
    "llama2": "7b",
    "llama3": "8b",
    "llama3.1": "8b",
    "llama3.2": "3b",
    "llama3.3": "70b",
    "mistral": "7b",
    "mistral-nemo": "12b",
    "mixtral": "8x7b",
    "nomic-embed-text": "v1.5",
    "phi3": "mini",
    "phi4": "14b",
    "phi4-mini": "3.8b",
    "qwen2": "7b",
    "qwen2.5": "7b",
    "qwen2.5-coder": "7b",
    "qwen3": "8b",
    "smollm2": "1.7b",
    "tinyllama": "1.1b",
}
"""What `latest` stands for."""


def repository_of(name: str) -> str | None:
    """The repository of a name such as "llama3.2:1b-instruct-q4_K_M"; None for other people's models."""
    name = re.sub(r"^(https?://)?registry\.ollama\.ai/", "", name).removeprefix("library/")
    model, _, tag = name.partition(":")
    if "/" in model:
        return None
    if tag in ("", "latest"):
        tag = LATEST.get(model, "")
    elif re.search(r"-(text|base)\b", tag):
        return None  # the model before it was taught to chat
    size = tag.split("-")[0]
    return REPOSITORIES.get(f"{model}:{tag}") or REPOSITORIES.get(f"{model}:{size}")
