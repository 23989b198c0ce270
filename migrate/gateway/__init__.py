"""Ollama's API in front of vLLM: the same clients, the same answers, another server behind them."""
