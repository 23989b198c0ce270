"""A checkpoint to read a little of: a directory, or a repository of the Hub, whose safetensors are read in ranges."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Protocol

from migrate.errors import BadInput, MissingExtra, NotFound, Refused, ServerError, ServerUnreachable
from migrate.ollama.bounded import loads_object

MAX_SMALL_BYTES = 128 << 20
"""The largest tokenizer.json in use has some 35 MB."""
MAX_HEADER_BYTES = 100 << 20
"""What the safetensors library allows."""
TIMEOUT = 20.0
"""Seconds without a byte after which a server counts as gone."""
SLOWEST = 60.0
"""Seconds a request may take in all; a range of a megabyte needs far less."""
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
INDEX = "model.safetensors.index.json"
_SMALL = re.compile(r"[\w.-]+\.(json|jinja|model|txt)|LICENSE|NOTICE")
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "I8": 1}


@dataclass(frozen=True, slots=True)
class RemoteTensor:
    """A tensor of a checkpoint: which file, where its bytes begin in it, how many they are; `shape` is torch's."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int
    nbytes: int


class Repository(Protocol):
    """Where a checkpoint lies. `revision` is a commit, or "" for a directory; `sizes` says which files there are."""

    @property
    def name(self) -> str: ...

    @property
    def revision(self) -> str: ...

    @property
    def sizes(self) -> Mapping[str, int]: ...

    def read(self, name: str, start: int, length: int) -> bytes:
        """Exactly that stretch of a file."""
        ...

    def fetched(self) -> Path:
        """A directory with all that vLLM needs, downloaded if it is not here."""
        ...


@dataclass(frozen=True)
class Directory:
    """A checkpoint on this machine (`--hf-path`), such as a snapshot in the cache of huggingface_hub."""

    path: Path
    revision: str = ""

    @property
    def name(self) -> str:
        return str(self.path)

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        if not self.path.is_dir():
            raise NotFound(f"{self.path}: no such directory")
        return {entry.name: entry.stat().st_size for entry in sorted(self.path.iterdir()) if entry.is_file()}

    def read(self, name: str, start: int, length: int) -> bytes:
        with (self.path / name).open("rb") as file:
            file.seek(start)
            data = file.read(length)
        if len(data) != length:
            raise BadInput(f"{self.path / name}: cut short")
        return data

    def fetched(self) -> Path:
        return self.path


@dataclass(frozen=True)
class HubRepository:
    """A repository of the Hub, pinned to the commit that `asked` (a branch, tag or commit) means now.

    Token, endpoint and cache are those of huggingface_hub (HF_TOKEN, HF_ENDPOINT, HF_HOME, ...).
    """

    name: str
    asked: str | None = None
    timeout: float = TIMEOUT
    endpoint: str | None = field(default_factory=lambda: os.environ.get("HF_ENDPOINT"))

    def __post_init__(self) -> None:
        if not REPOSITORY.fullmatch(self.name) or ".." in self.name:
            raise NotFound(
                f"{self.name!r} is no name of a repository", hint="Such as OWNER/NAME or OWNER/NAME@REVISION."
            )

    @property
    def revision(self) -> str:
        return str(self._info.sha)

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        return {entry.rfilename: entry.size or 0 for entry in self._info.siblings or ()}

    @cached_property
    def _info(self) -> Any:
        hub = _hub()
        with _explained(self.name):
            api = hub.HfApi(endpoint=self.endpoint)
            info = api.model_info(self.name, revision=self.asked, files_metadata=True, timeout=self.timeout)
        if not info.sha:
            raise ServerError(f"{self.name}: the Hub names no commit", status=200)
        return info

    def read(self, name: str, start: int, length: int) -> bytes:
        hub = _hub()
        if not length:
            return b""
        url = hub.hf_hub_url(self.name, name, revision=self.revision, endpoint=self.endpoint)
        wanted = {"Range": f"bytes={start}-{start + length - 1}", "Accept-Encoding": "identity"}
        headers = hub.utils.build_hf_headers() | wanted
        for attempt in (0, 1, 2):
            try:
                with _explained(self.name):
                    return self._stretch(hub, url, headers, name, start, length)
            except (ServerUnreachable, ServerError) as error:
                lasting = isinstance(error, ServerError) and error.status < 500
                if lasting or attempt == 2:
                    raise
                time.sleep(0.5 * 2**attempt)
        raise AssertionError

    def _stretch(self, hub: Any, url: str, headers: Mapping[str, str], name: str, start: int, length: int) -> bytes:
        deadline, parts, got = time.monotonic() + SLOWEST, [], 0
        session = hub.get_session()
        with session.stream("GET", url, headers=headers, timeout=self.timeout, follow_redirects=True) as response:
            if response.status_code >= 400:
                response.read()
            hub.utils.hf_raise_for_status(response)
            whole = not start and length == self.sizes.get(name)
            if response.status_code != 206 and not whole:
                raise ServerError(f"{self.name}: {name} cannot be read in parts from this server",
                                  status=response.status_code, hint="Download it and give --hf-path DIR.")  # fmt: skip
            for chunk in response.iter_bytes(1 << 16):
                parts.append(chunk)
                got += len(chunk)
                if got > length:
                    break
                if time.monotonic() > deadline:
                    raise ServerUnreachable(f"{self.name}: {name} takes too long", hint="Try again later.")
        if got != length:
            raise ServerError(f"{self.name}: {got} bytes of {name} instead of {length}", status=206)
        return b"".join(parts)

    def fetched(self) -> Path:
        """Downloads into the cache of huggingface_hub, which goes on where an earlier run stopped."""
        hub = _hub()
        names = [name for name in self.sizes if WEIGHTS.fullmatch(name) or _SMALL.fullmatch(name)]
        if not sys.stderr.isatty():
            hub.utils.disable_progress_bars()
        with _explained(self.name):
            path = hub.snapshot_download(
                self.name, revision=self.revision, allow_patterns=names, endpoint=self.endpoint
            )
        return Path(path)


def parse(given: str) -> HubRepository:
    """`OWNER/NAME`, `OWNER/NAME@REVISION`, or an address of huggingface.co. Raises NotFound for anything else."""
    text = re.sub(r"^(https?://)?(www\.)?(huggingface\.co|hf\.co)/", "", given.strip()).rstrip("/")
    text, _, branch = text.partition("/tree/")
    name, _, revision = text.partition("@")
    return HubRepository(name, revision or branch or None)


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.utils
    except ImportError:
        raise MissingExtra("asking the Hub needs huggingface-hub", hint="pip install 'ollama-to-vllm[hub]'") from None
    return huggingface_hub


class _explained:  # noqa: N801
    """Errors of the Hub, in our words."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        from huggingface_hub import errors

        if not isinstance(error, Exception) or isinstance(error, (NotFound, Refused, ServerError, ServerUnreachable)):
            return
        name, elsewhere = self._name, "Download it elsewhere and give --hf-path DIR."
        if isinstance(error, errors.GatedRepoError):
            hint = f"Accept its terms at https://huggingface.co/{name}, then `hf auth login` or set HF_TOKEN."
            raise Refused(f"{name} is gated: the Hub does not show it to this account", hint=hint) from None
        if isinstance(error, errors.RevisionNotFoundError):
            raise NotFound(f"{name} has no such revision") from None
        if isinstance(error, errors.RepositoryNotFoundError):
            raise NotFound(
                f"{name}: no such repository, or a private one", hint="`hf auth login`, if private."
            ) from None
        if isinstance(error, (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)):
            offline = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else "the Hub cannot be reached"
            raise ServerUnreachable(f"{name}: {offline}", hint=elsewhere) from None
        if isinstance(error, errors.EntryNotFoundError):
            raise NotFound(f"{name}: a file is missing from the repository: {str(error)[:200]}") from None
        if isinstance(error, errors.HfHubHTTPError):
            status = error.response.status_code if error.response is not None else 0
            raise ServerError(f"{name}: the Hub answers {status}", status=status, hint="Try again later.") from None
        if _is_transport(error):
            raise ServerUnreachable(
                f"{name}: the Hub cannot be reached ({type(error).__name__})", hint=elsewhere
            ) from None


def _is_transport(error: Exception) -> bool:
    """httpx and its successor have one tree of errors each; huggingface_hub uses either."""
    return any(kind.__name__ in ("TransportError", "HTTPError", "OSError") for kind in type(error).__mro__)


# -- what is in it -----------------------------------------------------------------------------------------------------


def read_json(repository: Repository, name: str, *, required: bool = True) -> dict[str, Any] | None:
    """A JSON object of a repository. Raises BadInput when it is missing (and `required`), too large, or no object."""
    size = repository.sizes.get(name)
    if size is None:
        if required:
            raise BadInput(f"{repository.name}: no {name}: not a checkpoint of transformers")
        return None
    if size > MAX_SMALL_BYTES:
        raise BadInput(f"{repository.name}: {name} has {size} bytes")
    return loads_object(repository.read(name, 0, size), f"{repository.name}: {name}")


def read_tensors(repository: Repository) -> dict[str, RemoteTensor]:
    """All tensors, from the headers of the safetensors files.

    Raises BadInput for damaged files, Refused where there are no safetensors.
    """
    names = [name for name in repository.sizes if WEIGHTS.fullmatch(name)]
    if not names:
        kinds = sorted({Path(name).suffix for name in repository.sizes} & {".bin", ".pth", ".gguf", ".pt", ".onnx"})
        raise Refused(f"{repository.name}: no safetensors{f' (but {chr(44).join(kinds)})' if kinds else ''}",
                      hint="Look for a repository with model.safetensors.")  # fmt: skip
    found: dict[str, RemoteTensor] = {}
    for name in names:
        found |= _header(repository, name)
    return found


def _header(repository: Repository, name: str) -> dict[str, RemoteTensor]:
    where, size = f"{repository.name}: {name}", repository.sizes[name]
    length = int.from_bytes(repository.read(name, 0, 8), "little") if size >= 8 else 0
    if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
        raise BadInput(f"{where}: not a safetensors file, or cut short")
    entries = loads_object(repository.read(name, 8, length), where)
    tensors = {}
    for tensor, entry in entries.items():
        if tensor == "__metadata__":
            continue
        try:
            dtype, shape, (begin, end) = str(entry["dtype"]), tuple(map(int, entry["shape"])), entry["data_offsets"]
            whole = 0 <= begin <= end <= size - 8 - length and min(shape, default=0) >= 0
            whole = whole and prod(shape) * _BYTES.get(dtype, 0) in (0, end - begin)
        except (KeyError, TypeError, ValueError):
            whole = False
        if not whole:
            raise BadInput(f"{where}: the entry of tensor {tensor[:200]!r} is damaged, or the file is cut short")
        tensors[tensor] = RemoteTensor(tensor, dtype, shape, name, 8 + length + begin, end - begin)
    return tensors
