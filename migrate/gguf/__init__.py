"""Reading a GGUF: the header (standard library only), the tensors' data, dequantization."""
