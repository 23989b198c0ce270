"""Writing a Hugging Face checkpoint: weights, config, tokenizer."""
