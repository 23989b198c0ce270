"""`quantization_config` of compressed-tensors: which modules are in which container.

vLLM compares a target beginning with "re:" with its own module names, anchored at their start only, and any other with
exactly one name. Fused layers match when all their parts do, or by the name of the fused layer itself, which not every
class declares the parts of; so both are given. Layers with a scheme in common are one expression: a model with
thousands of experts has a dozen targets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from migrate.checkpoint.packing import GROUP

_NUMBERED = re.compile(r"^(?:.*?\.)?(?P<list>\w+)\.(?P<index>\d+)\.(?P<rest>.+)$")
_VLLM_NAMES = {"lfm2": (("conv", "(?:short_)?conv"),)}
"""Parts of module names that vLLM 0.32 renames, by family."""


def compressed_tensors_config(model_type: str, modules: Mapping[int, Iterable[str]]) -> dict[str, Any]:
    """`modules`: names of modules by the bits of their container; 0 are those that stay dense."""
    by_bits = {bits: list(names) for bits, names in modules.items()}
    layers = _layers(name for names in by_bits.values() for name in names)
    targets = {bits: _targets(model_type, names, layers) for bits, names in by_bits.items()}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "kv_cache_scheme": None,
        "ignore": targets.pop(0, []),
        "config_groups": {
            f"group_{index}": {
                "targets": targets[bits],
                "weights": {
                    "num_bits": bits,
                    "type": "int",
                    "symmetric": True,
                    "strategy": "group",
                    "group_size": GROUP,
                    "dynamic": False,
                },
                "input_activations": None,
                "output_activations": None,
                "format": "pack-quantized",
            }
            for index, bits in enumerate(sorted(targets))
        },
    }


def _layers(names: Iterable[str]) -> dict[tuple[str, str], set[int]]:
    """For every kind of module, the layers that have one."""
    found: dict[tuple[str, str], set[int]] = {}
    for name in names:
        if match := _NUMBERED.match(name):
            found.setdefault((match["list"], _kind(match["rest"])), set()).add(int(match["index"]))
    return found


def _kind(rest: str) -> str:
    """The part of a name after the layer's number, with "#" for the expert's."""
    return re.sub(r"\.\d+\.", ".#.", rest)


def _targets(model_type: str, names: list[str], layers: Mapping[tuple[str, str], set[int]]) -> list[str]:
    exact = [name for name in names if not _NUMBERED.match(name)]
    expressions = [
        f"re:(?:.*\\.)?{stem}\\.{_numbers(chosen, layers[stem, kind])}\\.{_expression(model_type, kind)}$"
        for (stem, kind), chosen in _layers(names).items()
    ]
    return exact + expressions


def _numbers(chosen: set[int], of: set[int]) -> str:
    return r"\d+" if chosen == of else f"(?:{'|'.join(map(str, sorted(chosen)))})"


def _expression(model_type: str, kind: str) -> str:
    parts = dict(_VLLM_NAMES.get(model_type, ()))
    return r"\.".join(r"\d+" if part == "#" else parts.get(part, part) for part in kind.split("."))
