"""Fixtures that the tests of all later stages share."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, and before any library is loaded

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the processors
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_name, "1")

# Many tests start processes, and each would compile the package again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import pytest

from genretree.corpus import images
from genretree.corpus import prepare as prepare_module
from genretree.corpus.manifest import read_manifest
from genretree.corpus.prepare import prepare
from genretree.corpus.store import Store
from genretree.datasets import ccmusic
from genretree.sound.engines import import_librosa
from small_corpus import SETTINGS, TREE, write_corpus

# The files that take longest begin first, so that no process is left alone with one of them at the end.
LONGEST = (
    "service",
    "bundle/test_export.py",
    "models/test_contract.py",
    "test_service_page.py",
    "test_docs.py",
    "models/test_trainer.py",
    "library/test_apply.py",
    "corpus/test_ccmusic.py",
    "explanation/test_explain.py",
    "library/test_analyse.py",
    "corpus/test_prepare.py",
    "corpus/test_composed.py",
    "test_pretrain.py",
    "library/test_outputs.py",
)
_FOLDER = Path(__file__).parent

if sys.platform == "win32":  # the service imports modules that Windows lacks
    collect_ignore = ["service", "test_service_page.py"]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked as `posix` on Windows; compile librosa in one of the processes of tests at a time."""
    if sys.platform == "win32" and item.get_closest_marker("posix"):
        pytest.skip("needs POSIX signals, users or special files")
    if hasattr(getattr(item, "module", None), "librosa"):
        import_librosa()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Exempt what the imports created from garbage collection, which would take a tenth of the time of the run."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute by file in the order of the items; tests/service counts as one file, as its fixture is a server."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "tests/service" if file.startswith("tests/service/") else file

    config.option.loadscopereorder = False
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    places = {name: place for place, name in enumerate(LONGEST)}

    def place(item: pytest.Item) -> int:
        if not item.path.is_relative_to(_FOLDER):
            return len(LONGEST)
        name = item.path.relative_to(_FOLDER)
        return places.get(name.as_posix(), places.get(name.parts[0], len(LONGEST)))

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def _no_workers_unless_asked_for() -> Iterator[None]:
    """Prepare small corpora in this process by default, as workers import for longer than they work on these."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (prepare_module, images, ccmusic):
            patch.setattr(module, "available_processors", lambda: 1)
        yield


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CSV of the shared corpus: 5 leaves, 5 artists each, 2 tracks each."""
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def store(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The shared corpus, prepared: 50 tracks of 4 slices of 2 s, 64x64."""
    out = tmp_path_factory.mktemp("stores") / "store"
    return prepare(read_manifest(corpus, TREE), out, SETTINGS, workers=1, features=["mel_16k", "mel_32k"])
