"""Running and talking to real servers: Ollama, llama.cpp (its engine) and vLLM, behind one protocol (`base.Engine`)."""
