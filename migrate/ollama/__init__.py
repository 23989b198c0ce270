"""The source: everything Ollama knows of a model, read from its store, a Modelfile or a live server."""
