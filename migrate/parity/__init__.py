"""Does the bundle answer as the Ollama model did? Cheapest check first: prompt, tokens, logprobs, text."""
