"""Finding the checkpoint a model was made from, and proving it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from migrate import architectures
from migrate.errors import EngineError, MigrateError, MissingExtra, Refused, UsageError
from migrate.ollama.checkpoint import Checkpoint, StoredTensor, read_directory
from migrate.ollama.model import OllamaModel
from migrate.original.candidates import Candidate, candidates
from migrate.original.prove import Progress, Proof, Verdict, prove
from migrate.original.repository import Directory, Repository, parse, read_json, read_tensors

Showing = Callable[[str], AbstractContextManager[Progress | None]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A candidate, and what became of it: a proof (of whatever verdict), or an error."""

    candidate: Candidate
    proof: Proof | None
    error: str = ""
    hint: str = ""
    unreachable: bool = False


@dataclass(frozen=True, slots=True)
class Resolution:
    """All that was tried, in order; the last attempt is the one that was proved, if any was."""

    attempts: Sequence[Attempt]

    @property
    def proved(self) -> Proof | None:
        return next((a.proof for a in self.attempts if a.proof and a.proof.verdict is Verdict.PROVED), None)

    @property
    def undecided(self) -> bool:
        """Whether something was left open, so that "it is none of them" cannot be said."""
        return any(a.unreachable or (a.proof and a.proof.verdict is Verdict.UNDECIDED) for a in self.attempts)

    def to_dict(self) -> dict[str, Any]:
        return {
            "proved": self.proved is not None,
            "attempts": [
                {
                    **asdict(attempt.candidate),
                    "proof": attempt.proof.to_dict() if attempt.proof else None,
                    "error": attempt.error,
                    "hint": attempt.hint,
                }
                for attempt in self.attempts
            ],
        }


def resolve(
    model: OllamaModel,
    *,
    hf_repo: str | None = None,
    hf_path: Path | None = None,
    full: bool = False,
    showing: Showing = lambda name: nullcontext(),
) -> Resolution:
    """Tries every candidate until one is proved. `hf_repo` and `hf_path` leave only that one; its errors are raised.

    Raises:
        UsageError: both are given.
        Refused: nothing says where the model comes from, or it has no GGUF here, or its architecture is unknown.
        MigrateError: what `prove` raises, when one candidate was named.
    """
    if hf_repo and hf_path:
        raise UsageError("--hf-repo and --hf-path together", hint="One of them.")
    if model.gguf is None or model.checkpoint is not None:
        what = "is a checkpoint already" if model.checkpoint else "has no weights on this machine"
        raise Refused(f"{model.name} {what}: there is nothing to find an original for")
    layout = architectures.read(model.gguf)
    if hf_repo or hf_path:
        repository: Repository = Directory(hf_path) if hf_path else parse(hf_repo or "")
        origin = "--hf-path" if hf_path else "--hf-repo"
        with showing(repository.name) as progress:
            proof = prove(layout, repository, full=full, progress=progress)
        return Resolution([Attempt(Candidate(repository.name, origin), proof)])
    attempts: list[Attempt] = []
    for candidate in candidates(model):
        try:
            with showing(candidate.repository) as progress:
                proof = prove(layout, parse(candidate.repository), full=full, progress=progress)
            attempts.append(Attempt(candidate, proof))
        except MissingExtra:
            raise
        except MigrateError as error:
            lost = isinstance(error, EngineError) or "gated" in str(error)
            attempts.append(Attempt(candidate, None, str(error), error.hint or "", lost))
            continue
        if proof.verdict is Verdict.PROVED:
            break
    if not attempts:
        raise Refused(
            f"nothing in {model.name} says which checkpoint it was made from",
            hint="Name it with --hf-repo OWNER/NAME or --hf-path DIR; or convert without it: the GGUF is enough.",
        )
    return Resolution(attempts)


def with_original(model: OllamaModel, proof: Proof, hf_path: Path | None, *, fetch: bool = True) -> OllamaModel:
    """The model with the proved checkpoint as its weights; downloaded to the Hub's cache if `fetch`, else described.

    Raises:
        Refused: not proved, or an embedding model (whose GGUF says how to pool, which the original says in many ways).
        MigrateError: the download fails.
    """
    if proof.verdict is not Verdict.PROVED:
        raise Refused(
            f"{proof.repository} is not proved to be what {model.name} was made from: {proof.reason}",
            hint="`migrate resolve` shows the comparison; without --weights original the GGUF's weights are used.",
        )
    assert model.gguf is not None
    if architectures.read(model.gguf).architecture.pooling:
        raise Refused("--weights original is not for embedding models", hint="--weights dense keeps every digit.")
    repository = repository_of(proof, hf_path)
    if fetch:
        return replace(model, checkpoint=read_directory(repository.fetched(), links=True)[0])
    tensors = {
        t.name: StoredTensor(t.name, t.dtype, t.shape, Path(t.file), t.offset, t.nbytes)
        for t in read_tensors(repository).values()
    }
    files = {name: Path(name) for name in repository.sizes}
    shards = sorted({tensor.path for tensor in tensors.values()})
    return replace(model, checkpoint=Checkpoint(read_json(repository, "config.json") or {}, files, shards, tensors))


def repository_of(proof: Proof, hf_path: Path | None) -> Repository:
    """The repository that was proved, at the commit that was proved."""
    return Directory(hf_path) if hf_path else parse(f"{proof.repository}@{proof.revision}")
