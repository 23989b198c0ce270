"""What `ollama create` adds on its own when a GGUF is imported without a template of Ollama's.

It compares the GGUF's Jinja template with a list of known ones and, within 100 edits, adds a built-in Go template
*and* the stop list that belongs to it; the stop list even stays when the Modelfile has a TEMPLATE of its own. Neither
leaves a mark in the store. But a built-in text has a known digest, and the stop lists are few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256

_CHATML_STOP = ("<|im_start|>", "<|im_end|>")

_BUILT_IN: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "alfred": ("3d8766305b70e46ec57a4e70c46402fe677b2bbe0ba23af6caf8a6b534a92e42",
               ("<start_system>", "<end_message>", "<start_user>", "<start_assistant>")),
    "alpaca": ("34ed3812a77d23f667b4dc1f63c7564df4ac4d02ff88cfba658debb8ca2b8059",
               ("### Instruction:", "### Response")),
    "chatml": ("e3b2721cec511e3a627ae0993753abbf5c72cdf4cfcdbc8f5c33ce15c4c4e04b", _CHATML_STOP),
    "chatqa": ("1c4b2e51cf108dc8cdc6b1dc3bd11e4f3b575e7a1a961117bdb1229790a06fb2",
               ("System:", "User:", "Assistant:", "<|begin_of_text|>")),
    "codellama-70b-instruct": ("144e31793e9ebbc833530d2e992d1fc4dcb5a221e137cc8038c4f863f89f494e",
                               ("Source:", "Destination:", "<step>")),
    "command-r": ("cedc23829af01ffb7ac6cc9e79b07ac5f306bf37e11bddb93ec072dd4f8fc756",
                  ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>")),
    "falcon-instruct": ("6811aaaa5e1885891240a89af4dbe54a8fcd5259e169e88161ab596a478d3a86",
                        ("User:", "Assistant:")),
    "gemma-instruct": ("4ea0df93422f8340a23cbb30feb814196a03aed2e1d97382b6529fad7c541f79",
                       ("<start_of_turn>", "<end_of_turn>")),
    "gemma3-instruct": ("680a6206c5762f5a0915d25b2e5d85f8a1aecbc07a03a504bcbe21b5796b34ca", ("<end_of_turn>",)),
    "granite-instruct": ("d6bde791ae5d61abed6d7f3535a7d081589574c6389e36cdcc70eaf098bd83de",
                         ("System:", "Question:", "Answer:")),
    "llama2-chat": ("3f74e056f96c687f67c49ed8309407e0612611e94b910464d8a3d9b60b46d7a6",
                    ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")),
    "llama3-instruct": ("61dc7b1a77154f4015bbf548fb63b33550162cfd5d6cbf59b7e7843ece99a49e",
                        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "magicoder": ("25183b8f5dc6dfacfd7e6783b7b1cd12d8d42ce8a1f965051e61ffd1924294e5",
                  ("@@ Instruction", "@@ Response")),
    "mistral-instruct": ("c502cd9313888317b670db1c6d5698783656a22ea75101651baa2c94d42397fb", _CHATML_STOP),
    "openchat": ("e4ef0210ea1e3e5794d5cc22e95b85f97cfa0be15c3d18ad4b20e6915dcc2266", ("<|end_of_turn|>",)),
    "phi-3": ("35360843d0c84fb1506952a131bbef13cd2bb4a541251f22535170c05b56e672",
              ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")),
    "solar-instruct": ("2a9a67ad51b48060f9816867a0605cd1aa80b3a55c228d7596e180f762ea316d",
                       ("### System:", "### User:", "### Assistant")),
    "starcoder2-instruct": ("60851c266b6fdc5bc66b7993ba5e257e191569b02509514d6071ee10818472b9",
                            ("### Instruction", "### Response", "<|endoftext|>")),
    "vicuna": ("afb92aa3328db00d21faf8504790d8413c904b349b86fae332954bbe9c5899ca", ("USER:", "ASSISTANT:")),
    "zephyr": ("a212eb1556b15dc9c63813c9b91dc4a569b8a5fb248fad55b5489b07b48f1a43",
               ("<|system|>", "</s>", "<|user|>", "<|assistant|>")),
}  # fmt: skip
"""Name -> (sha256 of the built-in template, its stop list) of August 2024 (most) or later, unchanged at 0.33."""

_NAME_OF_DIGEST = {digest: name for name, (digest, _) in _BUILT_IN.items()}


def built_in_template(template: str | None) -> str | None:
    """The name of Ollama's built-in template with exactly this text; None for any other."""
    return None if template is None else _NAME_OF_DIGEST.get(sha256(template.encode()).hexdigest())


def built_in_stop_list(name: str) -> list[str]:
    """The stop list that comes with a built-in template."""
    return list(_BUILT_IN[name][1])


def templates_with_stop_list(stop: Sequence[str]) -> list[str]:
    """Names of the built-in templates that bring exactly this stop list, in this order."""
    return [name for name, (_, texts) in _BUILT_IN.items() if texts == tuple(stop)]
