"""The user's own traffic: recorded, read, redacted and sampled."""
