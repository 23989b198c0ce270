"""Runs in the engines' Python: the weights of a packed checkpoint as the compressed-tensors library unpacks them.

Standard input: {"directory", "names": [module]}. Standard output: {module: sha256 of its bytes, and their dtype}.
The scheme comes from the checkpoint's own config.json, by the library's own matching of targets.
"""

# mypy: ignore-errors

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path


def main() -> None:
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    task = json.load(sys.stdin)

    import torch
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationConfig
    from compressed_tensors.utils.match import match_name
    from safetensors import safe_open

    directory = Path(task["directory"])
    config = json.loads((directory / "config.json").read_text())["quantization_config"]
    schemes = QuantizationConfig.model_validate(config).config_groups.values()
    tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    found = {}
    for module in task["names"]:
        (scheme,) = [s for s in schemes if any(match_name(module, target) for target in s.targets)]
        state = {key: tensors[f"{module}.{key}"] for key in ("weight_packed", "weight_scale", "weight_shape")}
        weight = PackedQuantizationCompressor.decompress(state, scheme)["weight"]
        data = weight.contiguous().view(torch.uint8).numpy().tobytes()
        found[module] = {"dtype": str(weight.dtype).removeprefix("torch."), "sha256": hashlib.sha256(data).hexdigest()}
    json.dump(found, answer)
    answer.close()


if __name__ == "__main__":
    main()
