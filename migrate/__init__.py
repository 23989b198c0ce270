"""Moves a custom Ollama model to vLLM: the same model, answering the same way, with proof."""

__version__ = "0.1.0"
