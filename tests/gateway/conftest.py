"""Bundles of the two stores that a real Ollama made, converted once."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrate.gateway.catalog import Catalog
from tests.gateway import bench


@pytest.fixture(scope="session")
def bundles(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of every model of the store."""
    return bench.converted(shared / "ollama" / "store", tmp_path_factory.mktemp("bundles") / "out")


@pytest.fixture(scope="session")
def modern_bundles(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the second store; oss-bot is left out, which has no float32."""
    return bench.converted(shared / "ollama" / "modern" / "store", tmp_path_factory.mktemp("modern") / "out")


@pytest.fixture(scope="session")
def alone(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of support-bot, renderer-bot and legacy-bot, none in a set."""
    store, output = shared / "ollama" / "store", tmp_path_factory.mktemp("alone") / "out"
    return bench.alone(store, output, "support-bot", "renderer-bot", "legacy-bot")


@pytest.fixture(scope="session")
def catalog(bundles: Path) -> Catalog:
    return bench.catalog(bundles)


@pytest.fixture(scope="session")
def modern_catalog(modern_bundles: Path) -> Catalog:
    return bench.catalog(modern_bundles)
