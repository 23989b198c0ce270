"""Planning: will it fit, how many instances, what rate, which GPU, what does it cost a month.

Arithmetic only; nothing here needs torch or a GPU. Every number is a `Figure` that knows its formula and its source.

    figures      a number with its formula, its values put in, and where the formula comes from
    config       config.json, checked
    weights      parameters and bytes: from safetensors headers, a GGUF's plan, or a bare config
    layers       what every layer of a model keeps per token or per request
    cache        how vLLM's KV cache manager lays that out in blocks
    memory       what of a GPU's memory is left for the cache
    throughput   roofline: time of a decode step and of a prefill, requests a minute within a service level
    density      how many instances on one GPU
    gpus         gpus.yaml and the user's own table
    cost         instances, GPUs, dollars
    calibrate    one short run against a real server instead of assumed efficiencies
    prefix       what prefix caching would save of the user's own prompts
    advise       all of it for every GPU, sorted by cost
"""
