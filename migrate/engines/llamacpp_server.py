"""Runs llama.cpp's HTTP server on one GGUF until it is told to stop. Needs only xllamacpp: it is started as a script by
the Python of the engines' environment, where this package is not installed."""

import argparse
import signal
import threading


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ctx", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--lora", action="append", default=[])
    args = parser.parse_args()

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.port = args.port
    params.n_ctx = args.ctx
    params.n_parallel = 1  # Ollama's default (OLLAMA_NUM_PARALLEL)
    params.warmup = False
    params.fit_params = False
    params.offline = True
    params.ui = False
    params.prefill_assistant = False  # Ollama adds the generation prompt after a last assistant message
    params.cpuparams.n_threads = args.threads or -1
    adapters = []
    for path in args.lora:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = path, 1.0
        adapters.append(adapter)
    params.lora_adapters = adapters

    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    signal.signal(signal.SIGINT, lambda *_: stopped.set())
    server = xllamacpp.Server(params)
    print(f"READY {server.listening_address}", flush=True)
    stopped.wait()


if __name__ == "__main__":
    main()
