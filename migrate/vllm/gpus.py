"""What vLLM can run where: compute capabilities of GPUs, and the lowest that a dtype or a format needs.

Capabilities are NVIDIA's published ones (developer.nvidia.com/cuda-gpus, read in November 2026). The bounds are vLLM
0.32's: `platforms/cuda.py` for bfloat16, `get_min_capability` of the scheme `CompressedTensorsWNA16` and of the MXFP4
method for the formats.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from migrate.errors import UsageError

Capability = tuple[int, int]

BFLOAT16: Capability = (8, 0)
PACKED_INTEGERS: Capability = (7, 5)
MXFP4: Capability = (8, 0)

_GPUS: dict[Capability, str] = {
    (7, 0): "V100",
    (7, 5): "T4 RTX2060 RTX2070 RTX2080 RTX2080TI RTX6000",
    (8, 0): "A100 A30",
    (8, 6): "A10 A10G A16 A40 A2 A4000 A5000 A6000 RTX3060 RTX3070 RTX3080 RTX3090",
    (8, 7): "ORIN",
    (8, 9): "L4 L40 L40S RTX4060 RTX4070 RTX4080 RTX4090",
    (9, 0): "H100 H200 GH200",
    (10, 0): "B200 GB200",
    (10, 3): "B300 GB300",
    (12, 0): "RTX5060 RTX5070 RTX5080 RTX5090 RTXPRO6000",
    (12, 1): "GB10 DGXSPARK",
}
_BY_NAME = {name: capability for capability, names in _GPUS.items() for name in names.split()}
_NUMBER = re.compile(r"(?:SM_?)?(\d{1,2})\.?(\d)A?")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a model will be served. `capability` is that of the GPU, None for vLLM's CPU backend."""

    name: str
    capability: Capability | None

    def reaches(self, capability: Capability) -> bool:
        return self.capability is not None and self.capability >= capability

    def __str__(self) -> str:
        if self.capability is None:
            return "CPU"
        number = f"compute capability {self.capability[0]}.{self.capability[1]}"
        return f"{self.name}, {number}" if self.name else number


def parse(text: str) -> Target:
    """A GPU by its compute capability ("8.9", "sm_89") or its name ("L4", "RTX 4090"), or "cpu".

    Raises UsageError for a name that is not in the table: a guess could choose a format the GPU has no kernel for.
    """
    name = re.sub(r"NVIDIA|GEFORCE|TESLA|[\s_-]", "", text.upper())
    if name == "CPU":
        return Target("CPU", None)
    if match := _NUMBER.fullmatch(name):
        return Target("", (int(match[1]), int(match[2])))
    if name in _BY_NAME:
        return Target(text.strip(), _BY_NAME[name])
    raise UsageError(
        f"--target-gpu {text!r} is not in our table of GPUs",
        hint="Give its compute capability, such as 8.9 (nvidia-smi --query-gpu=compute_cap --format=csv), or cpu.",
    )
