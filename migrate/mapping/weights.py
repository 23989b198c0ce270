"""FROM: the weights and the tokenizer of a model, and the dtype they are written in."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from migrate import architectures
from migrate.architectures.base import ModelLayout
from migrate.errors import GGUFError, MigrateError, Refused, UsageError
from migrate.findings import Ledger, Status
from migrate.gguf.header import GGUFHeader
from migrate.gguf.types import GGMLType
from migrate.gguf.vocab import Vocabulary, read_vocabulary
from migrate.ollama.checkpoint import Checkpoint
from migrate.ollama.model import OllamaModel
from migrate.original.prove import Proof
from migrate.vllm.gpus import Target

Way = Literal["dense", "repack", "requantize"]


def choose_weights(
    header: GGUFHeader,
    target: Target,
    way: Way | None,
    ledger: Ledger,
    *,
    auto: bool,
    dtype: str | None,
    merged: bool,
) -> tuple[Way | None, str | None]:
    """`--weights` and `--dtype` for a GPU that was named; as they were after a refusal."""
    from migrate.checkpoint.choose import choose

    try:
        choice = choose(architectures.read(header), target, way, auto=auto, dtype=dtype, merged=merged)
    except (Refused, GGUFError) as error:
        ledger.add("--target-gpu", Status.REFUSED, str(target), "", str(error), error.hint or "")
        return way, dtype
    ledger.extend(choice.findings)
    return choice.way, choice.dtype


def map_weights(
    model: OllamaModel, requested: str | None, ledger: Ledger, *, way: Way | None = None, original: Proof | None = None
) -> tuple[ModelLayout | None, str]:
    """The layout of the checkpoint, and the dtype it is written in; ("" and None after a refusal)."""
    header = model.gguf
    if header is None:
        ledger.add(
            "FROM",
            Status.REFUSED,
            model.digests.get("model", ""),
            "",
            "the weights are not on this machine",
            "run this where the Ollama store is, or pass --models-dir",
        )
        return None, ""
    if model.checkpoint is not None:
        if original is not None:
            return None, _map_original(header, model.checkpoint, original, requested, ledger)
        return None, _map_checkpoint(model.checkpoint, requested, ledger)
    try:
        layout = architectures.read(header)
    except (Refused, GGUFError) as error:
        ledger.add("FROM", Status.REFUSED, header.architecture, "", str(error), error.hint or "")
        return None, ""
    if way in ("repack", "requantize") or (way is None and keeps_mxfp4(layout)):
        return _map_quantized(layout, requested, way, ledger)
    dtype = requested or default_dtype(header, float16=layout.architecture.float16)
    kinds = {share.type.name: share.tensors for share in header.type_shares()}
    listed = ", ".join(f"{name} x{count}" for name, count in kinds.items())
    exact = _is_exact(set(kinds), dtype)
    reason = (
        "the same numbers"
        if exact
        else f"each weight is rounded once to {dtype}"
        if kinds.keys() <= {"F32", "F16", "BF16"}
        else f"each weight is dequantized and rounded once to {dtype}; llama.cpp computes with the quantized blocks "
        "and 8-bit activations, so log-probabilities move in the second or third digit"
    )
    ledger.add("FROM", Status.EXACT if exact else Status.EQUIVALENT, f"GGUF {header.architecture}: {listed}",
               f"safetensors {dtype}", reason)  # fmt: skip
    ledger.extend(layout.findings)
    if dtype == "float16" and not layout.architecture.float16:
        ledger.add("dtype", Status.REFUSED, "float16", "", f"vLLM refuses float16 for {layout.architecture.model_type}",
                   "pass --dtype bfloat16")  # fmt: skip
    return layout, dtype


def keeps_mxfp4(layout: ModelLayout) -> bool:
    """Whether a model is a gpt-oss with experts in MXFP4, which is how the family is released."""
    stacks = [tensor for tensor in layout.tensors if len(tensor.shape) == 3]
    return layout.architecture.model_type == "gpt_oss" and all(t.types == {GGMLType.MXFP4} for t in stacks)


def _map_quantized(
    layout: ModelLayout, requested: str | None, way: Way | None, ledger: Ledger
) -> tuple[ModelLayout | None, str]:
    """Weights that stay quantized. What each tensor becomes is decided where they are written."""
    from migrate.checkpoint.convert import plan_storage

    try:
        plan = plan_storage(layout, way, requested)
    except (Refused, UsageError) as error:
        ledger.add("FROM", Status.REFUSED, layout.header.architecture, "", str(error), error.hint or "")
        return None, ""
    kinds = ", ".join(f"{share.type.name} x{share.tensors}" for share in layout.header.type_shares())
    kept = "quantized as they are" if plan.quantization_config else "nothing that could stay quantized"
    status = Status.APPROXIMATE if any(f.status is Status.APPROXIMATE for f in plan.findings) else Status.EXACT
    ledger.add("FROM", status, f"GGUF {layout.header.architecture}: {kinds}", f"safetensors {plan.dtype.value}",
               f"--weights {way or 'as released'}: {kept}; see the findings on weights")  # fmt: skip
    ledger.extend([*layout.findings, *plan.findings])
    return layout, plan.dtype.value


def _map_checkpoint(checkpoint: Checkpoint, requested: str | None, ledger: Ledger) -> str:
    """Weights that are a checkpoint already: the same files. vLLM converts when it loads, if another dtype is asked."""
    dtype = requested or checkpoint.dtype
    tensors = f"{len(checkpoint.tensors)} tensors, {checkpoint.nbytes / 1e6:.1f} MB of {checkpoint.dtype}"
    if checkpoint.shards:
        reason = "the checkpoint itself; Ollama served what its converter made of it"
    else:
        reason = "one tensor per layer, put together to a checkpoint again"
    ledger.add("FROM", Status.EXACT if dtype == checkpoint.dtype else Status.APPROXIMATE, f"safetensors: {tensors}",
               f"safetensors {checkpoint.dtype}, served as {dtype}", reason)  # fmt: skip
    return dtype


def _map_original(
    header: GGUFHeader, checkpoint: Checkpoint, proof: Proof, requested: str | None, ledger: Ledger
) -> str:
    """`--weights original`: the checkpoint that was proved to be what the GGUF was made from."""
    dtype = requested or checkpoint.dtype
    kinds = {share.type.name: share.tensors for share in header.type_shares()}
    listed = ", ".join(f"{name} x{count}" for name, count in kinds.items())
    where = f"{proof.repository}@{proof.revision}" if proof.revision else proof.repository
    quantized = any(share.type.is_quantized for share in header.type_shares())
    status = Status.APPROXIMATE if quantized or dtype != checkpoint.dtype else Status.EXACT
    reason = f"the checkpoint the GGUF was made from: {proof.reason}"
    if quantized:
        reason += "; without what quantization took, so answers differ from Ollama's as much as that did"
    ledger.add("FROM", status, f"GGUF {header.architecture}: {listed}", f"{where}, {checkpoint.dtype}", reason)
    return dtype


def _is_exact(kinds: set[str], dtype: str) -> bool:
    """Whether the matrices keep their numbers. Beside F16 or BF16 matrices F32 holds norms and biases, which were of
    that dtype in the original; the checkpoint's own finding on F32 says so."""
    if dtype == "float32":
        return kinds <= {"F32", "F16", "BF16"}
    native = {"float16": "F16", "bfloat16": "BF16"}[dtype]
    return native in kinds and kinds <= {native, "F32"}


def map_tokenizer(model: OllamaModel, ledger: Ledger) -> Vocabulary | None:
    if model.gguf is None:
        return None
    has_vocabulary = bool(model.gguf.get("tokenizer.ggml.tokens"))
    if model.checkpoint is not None and ("tokenizer.json" in model.checkpoint.files or not has_vocabulary):
        _map_original_tokenizer(model.checkpoint, ledger)
        return None
    try:
        vocabulary = read_vocabulary(model.gguf)
    except (Refused, GGUFError) as error:
        ledger.add("tokenizer", Status.REFUSED, model.gguf.get("tokenizer.ggml.model", ""), "", str(error),
                   error.hint or "")  # fmt: skip
        return None
    pre = model.gguf.get("tokenizer.ggml.pre")
    ledger.add("tokenizer", Status.EXACT, f"{model.gguf.get('tokenizer.ggml.model')}{f'/{pre}' if pre else ''}, "
               f"{len(vocabulary.tokens):,} tokens", "tokenizer.json", "the same ids for the same text")  # fmt: skip
    return vocabulary


def map_given_tokenizer(model: OllamaModel, given: str, ledger: Ledger) -> bool:
    """`--tokenizer DIR|REPO`, compared with the GGUF's vocabulary here and now. Whether BOS comes in front."""
    from tempfile import TemporaryDirectory

    from migrate.checkpoint import adopted

    header = model.gguf
    if header is None or model.checkpoint is not None:
        ledger.add("tokenizer", Status.REFUSED, "", given, "--tokenizer is for a GGUF: this has a tokenizer of its own")
        return False
    try:
        with TemporaryDirectory() as scratch:
            _, findings = adopted.adopt_tokenizer(given, header, Path(scratch))
            tokenizer = adopted.load(Path(scratch) / adopted.FILES[0])
    except MigrateError as error:
        ledger.add("tokenizer", Status.REFUSED, "", given, str(error), error.hint or "")
        return False
    ledger.extend(findings)
    return adopted.adds_bos(tokenizer, header)


def _map_original_tokenizer(checkpoint: Checkpoint, ledger: Ledger) -> None:
    names = [name for name in ("tokenizer.json", "tokenizer.model") if name in checkpoint.files]
    if "tokenizer.json" in names:
        ledger.add("tokenizer", Status.EXACT, ", ".join(names), "the same files", "the checkpoint's own tokenizer")
        return
    if names:
        ledger.add("tokenizer", Status.APPROXIMATE, names[0], "the same file",
                   "transformers makes a tokenizer of it, which may begin texts otherwise than Ollama does",
                   "save a tokenizer.json beside it and compare with `migrate parity`")  # fmt: skip
        return
    ledger.add("tokenizer", Status.REFUSED, "", "", "the checkpoint has neither tokenizer.json nor tokenizer.model",
               "Give the original tokenizer with --tokenizer DIR.")  # fmt: skip


def default_dtype(header: GGUFHeader, *, float16: bool = True) -> str:
    """float16 where the matrices are stored as F16 and vLLM takes it for this family, else bfloat16.

    bfloat16 is what the families behind quantized files were trained in: float16 has more digits and can overflow.
    """
    kinds = {share.type for share in header.type_shares()}
    return "float16" if float16 and GGMLType.F16 in kinds and kinds <= {GGMLType.F16, GGMLType.F32} else "bfloat16"
