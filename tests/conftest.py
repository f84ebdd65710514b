"""Fixtures that the tests of all later stages share."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, and before any library is loaded

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the processors
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_name, "1")

import pytest

from genretree.corpus.manifest import read_manifest
from genretree.corpus.prepare import prepare
from genretree.corpus.store import Store
from small_corpus import SETTINGS, TREE, write_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CSV of the shared corpus: 5 leaves, 5 artists each, 2 tracks each."""
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def store(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The shared corpus, prepared: 50 tracks of 4 slices of 2 s, 64x64."""
    out = tmp_path_factory.mktemp("stores") / "store"
    return prepare(read_manifest(corpus, TREE), out, SETTINGS, workers=1, features=["mel_16k", "mel_32k"])
