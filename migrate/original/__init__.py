"""The checkpoint a GGUF was made from: which one it might be, and the proof that it is."""
