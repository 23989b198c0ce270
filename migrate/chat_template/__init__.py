"""From Ollama's Go templates to the Jinja chat templates of transformers and vLLM, with proof."""
