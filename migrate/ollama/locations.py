"""Where models lie on this machine, and a clear word when they may not be read."""

from __future__ import annotations

import os
from pathlib import Path

from migrate.errors import NotFound


def default_models_dirs() -> list[Path]:
    """Where Ollama keeps models unless OLLAMA_MODELS says otherwise: this user's (also on macOS, Windows and as root in
    Docker), those of the service the Linux installer makes, and of distribution packages.
    """
    homes = [Path.home()] + [Path(p) for p in ("/usr/share/ollama", "/var/lib/ollama", "/root") if os.name == "posix"]
    dirs = [home / ".ollama" / "models" for home in homes]
    if os.name == "posix":
        dirs.append(Path("/var/lib/ollama/models"))
    return list(dict.fromkeys(dirs))


def models_dir_from_environment() -> Path | None:
    """OLLAMA_MODELS as Ollama reads it: blanks and quotes around it go, ~ is not expanded."""
    value = os.environ.get("OLLAMA_MODELS", "").strip().strip("'\"").strip()
    return Path(value) if value else None


def find_models_dir(explicit: Path | None = None) -> Path:
    """The directory that holds `manifests` and `blobs`: `explicit` if given, else OLLAMA_MODELS, else the first of
    `default_models_dirs` that is there. The directory above (`~/.ollama`) will do as well.

    Raises NotFound, naming the places looked at and whose they are when they cannot be read.
    """
    if explicit is not None:
        return _required(explicit.expanduser(), f"{explicit}")
    if (configured := models_dir_from_environment()) is not None:
        return _required(configured, f"{configured} (OLLAMA_MODELS)")
    denied: list[Path] = []
    for candidate in default_models_dirs():
        try:
            if _is_store(candidate):
                return candidate
        except PermissionError:
            denied.append(candidate)
    if denied:
        raise _denied(denied[0])
    places = ", ".join(map(str, default_models_dirs()))
    raise NotFound(f"no Ollama models on this machine (looked at {places})", hint="Name the place: --models-dir DIR.")


def _required(path: Path, shown: str) -> Path:
    try:
        for candidate in (path, path / "models"):
            if _is_store(candidate):
                return candidate
    except PermissionError:
        raise _denied(path) from None
    hint = "An Ollama models directory has `manifests` and `blobs` in it."
    raise NotFound(f"{shown} is {'no' if path.exists() else 'not there: no'} Ollama models directory", hint=hint)


def _is_store(path: Path) -> bool:
    """Whether `path` can be used; PermissionError when it exists (or may exist) and cannot be read."""
    try:
        with os.scandir(path / "manifests"):
            return True
    except (FileNotFoundError, NotADirectoryError):
        return False


def _denied(path: Path) -> NotFound:
    owner = _owner(path)
    whose = f"belongs to the user {owner!r} and " if owner else ""
    who = owner or "ollama"
    return NotFound(
        f"{path} {whose}cannot be read by you",
        hint=f"Run as that user (sudo -u {who} ...), ask for read access, or ask the server: --host 127.0.0.1:11434.",
    )


def _owner(path: Path) -> str | None:
    """Owner of the path, or of the first directory above it that can be looked at."""
    for candidate in (path, *path.parents):
        try:
            return candidate.owner()
        except PermissionError:
            continue
        except (OSError, KeyError, NotImplementedError):
            return None
    return None
