"""Stores for the tests of the command line."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.session.cli.cli_kit import Cli, seed

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("seeded") / "store"
    seed(path)
    return path


@pytest.fixture
def cli(seeded: Path, tmp_path: Path) -> Cli:
    """Commands on a store of one's own: see `seed`."""
    shutil.copytree(seeded, tmp_path / "store")
    return Cli(tmp_path / "store")
