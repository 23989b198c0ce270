"""Run as a script: token ids by llama.cpp (xllamacpp) for texts read as a JSON list from standard input.

    python llamacpp_ids.py MODEL.gguf < texts.json > ids.json

A process of its own, so that a crash in native code fails one test only.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request


def main() -> None:
    import xllamacpp

    # Native code logs to the standard output; the answer must be alone there.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.n_ctx, params.port, params.n_parallel, params.warmup = 64, 0, 1, False
    server = xllamacpp.Server(params)
    url = f"{server.listening_address}/tokenize"

    def ids(text: str) -> list[int]:
        body = json.dumps({"content": text, "add_special": True, "parse_special": True}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as response:
            tokens: list[int] = json.load(response)["tokens"]
        return tokens

    json.dump([ids(text) for text in json.load(sys.stdin)], answer)
    answer.close()


if __name__ == "__main__":
    main()
