"""Files that start a bundle for real: Compose, nginx, systemd, Kubernetes and the fleets' own formats.

They are written from a finished bundle and lie beside it (`deploy/` or another directory), so that the bundle itself
stays what its digests say. A new target is one template directory and one line in `targets.TARGETS`.
"""

from __future__ import annotations

from migrate.bundle.deploy.facts import Deployment, Options, read
from migrate.bundle.deploy.targets import FIRST_RING, TARGETS, files
from migrate.bundle.deploy.write import DIRECTORY, write

__all__ = ["DIRECTORY", "FIRST_RING", "TARGETS", "Deployment", "Options", "files", "read", "write"]
