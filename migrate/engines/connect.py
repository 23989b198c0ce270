"""From a URL to the engine behind it."""

from __future__ import annotations

from migrate.engines.base import Engine
from migrate.engines.http import DEFAULT_TIMEOUT_S, JsonClient
from migrate.errors import ServerError


def source(url: str, *, model: str, timeout: float = DEFAULT_TIMEOUT_S) -> Engine:
    """An Ollama server (it answers /api/version) or llama.cpp's (it answers /props), asked which of the two it is.

    Raises ServerUnreachable, and ServerError when it is neither.
    """
    from migrate.engines.llamacpp import LlamaCppEngine
    from migrate.engines.ollama import OllamaEngine, ollama_url

    probe = JsonClient(url if "://" in url else ollama_url(url), label="the source", timeout=min(timeout, 30.0))
    try:
        if _answers(probe, "/api/version", "version"):
            return OllamaEngine(url, model=model, timeout=timeout)
        if _answers(probe, "/props", "default_generation_settings"):
            return LlamaCppEngine(url, timeout=timeout)
    finally:
        probe.close()
    raise ServerError(
        f"{url} is neither an Ollama server nor llama.cpp's",
        status=200,
        hint="--source takes Ollama's address (http://127.0.0.1:11434) or that of llama-server on the same GGUF",
    )


def any_server(url: str, *, model: str, timeout: float = DEFAULT_TIMEOUT_S) -> Engine:
    """The same, or a vLLM server (it answers /version): an older one, or one on the weights in full precision.

    Raises ServerUnreachable, and ServerError when it is none of the three.
    """
    from migrate.engines.vllm import VllmEngine

    if "://" in url:
        probe = JsonClient(url, label="the source", timeout=min(timeout, 30.0))
        try:
            if _answers(probe, "/version", "version"):
                return VllmEngine(url, timeout=timeout)
        finally:
            probe.close()
    return source(url, model=model, timeout=timeout)


def _answers(client: JsonClient, path: str, key: str) -> bool:
    try:
        answer = client.get(path)
    except ServerError:
        return False
    return isinstance(answer, dict) and key in answer
