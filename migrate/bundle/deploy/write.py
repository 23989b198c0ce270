"""Writes deployment files: built beside their place and moved in together."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from migrate.bundle.deploy.facts import Deployment
from migrate.bundle.deploy.targets import Files, files
from migrate.errors import OutputExists, UsageError

DIRECTORY = "deploy"


def write(deployment: Deployment, out: Path, targets: Sequence[str], *, force: bool = False) -> list[Path]:
    """Writes the files of `targets` into `out`, and returns their paths. Other files there are left alone.

    Raises:
        UsageError: a target that does not exist, or a directory that cannot be written.
        OutputExists: one of the files exists and is different, and `force` is not set.
    """
    made = files(deployment, targets)
    check(made, out, force=force)
    try:
        out.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".deploy-partial-", dir=out))
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from None
    try:
        for name, text in made.items():
            new = scratch / name
            new.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(text, encoding="utf-8", newline="\n")
            new.chmod(0o755 if name.endswith(".sh") else 0o644)
        for name in made:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (scratch / name).replace(out / name)
    except OSError as error:
        raise UsageError(f"{out} could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return [out / name for name in made]


def check(made: Files, out: Path, *, force: bool) -> None:
    """Before any work: may these files be written?"""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise OutputExists(f"{out} exists and is not a directory")
    for name, text in made.items():
        path = out / name
        if path.is_dir() or path.is_symlink():
            raise OutputExists(
                f"{path} exists and is not a file of ours", hint="remove it yourself, or choose another -o"
            )
        if path.is_file() and not force and path.read_bytes() != text.encode():
            raise OutputExists(
                f"{path} exists and is different", hint="choose another -o, or pass --force to replace it"
            )
