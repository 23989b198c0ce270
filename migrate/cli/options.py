"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Ref = Annotated[
    str,
    typer.Argument(metavar="REF", help="A model name in the store, a Modelfile, or a GGUF file."),
]
Refs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="REF...", help="A model name in the store, a Modelfile, or a GGUF file; several share what they can."
    ),
]
All = Annotated[bool, typer.Option("--all", help="Every model of the store, those on the same weights together.")]
ModelsDir = Annotated[
    Path | None,
    typer.Option(
        "--models-dir", metavar="DIR", help="Ollama's models directory (default: OLLAMA_MODELS, then the usual places)."
    ),
]
Host = Annotated[str | None, typer.Option("--host", metavar="URL", help="Read from a running Ollama at this address.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Client = Annotated[
    str,
    typer.Option(
        "--client",
        metavar="native|openai",
        help="Whose defaults: clients of /api/chat (the Modelfile's) or of /v1 (temperature and top_p 1.0).",
    ),
]
Penalties = Annotated[
    str,
    typer.Option(
        "--penalties",
        metavar="ollama|always|vllm|none",
        help="Ollama's, by a plugin (always: for requests' sake); vLLM's own; those without repeat_penalty.",
    ),
]
HfRepo = Annotated[
    str | None,
    typer.Option("--hf-repo", metavar="OWNER/NAME[@REV]", help="The original's repository, if the GGUF names none."),
]
HfPath = Annotated[
    Path | None, typer.Option("--hf-path", metavar="DIR", help="The original's checkpoint on this machine.")
]
MaxModelLen = Annotated[
    int | None,
    typer.Option("--max-model-len", min=1, metavar="TOKENS", help="Context of the server (default: num_ctx)."),
]
OllamaVersion = Annotated[
    str | None,
    typer.Option(
        "--ollama-version", metavar="VERSION", help="Whose defaults to assume when no server is asked (default: 0.33)."
    ),
]
