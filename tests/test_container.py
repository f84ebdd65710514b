"""The Dockerfile is what docs/container.md says, and its steps work in a plain virtual environment."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile as sf

from genretree.settings import SAMPLE_RATE
from small_corpus import synthesise

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()


@dataclass(frozen=True)
class Step:
    """One instruction of a Dockerfile, with the stage it belongs to."""

    stage: int
    word: str
    text: str

    @property
    def listed(self) -> list[str]:
        """Its words, where it has the form of a list."""
        found: list[str] = json.loads(self.text[self.text.index("[") :])
        return found


def read_dockerfile(path: Path) -> list[Step]:
    """Read instructions: without comments, continued lines in one."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    steps, stage = [], -1
    for line in whole.splitlines():
        word, _, text = line.partition(" ")
        stage += word == "FROM"
        steps.append(Step(stage, word, text.strip()))
    return steps


STEPS = read_dockerfile(ROOT / "Dockerfile")
LAST = max(step.stage for step in STEPS)
FINAL = [step for step in STEPS if step.stage == LAST]


def only(word: str) -> Step:
    found = [step for step in FINAL if step.word == word]
    assert len(found) == 1, f"{word} stands {len(found)} times in the last stage"
    return found[0]


def environment(steps: list[Step]) -> dict[str, str]:
    pairs = [shlex.split(step.text) for step in steps if step.word == "ENV"]
    return dict(pair.split("=", 1) for line in pairs for pair in line)


def test_torch_is_the_one_of_the_makefile() -> None:
    installed = re.findall(r"torch==([\d.]+)", (ROOT / "Dockerfile").read_text())
    assert installed == re.findall(r"torch==([\d.]+)", MAKEFILE)
    index = next(step.text for step in STEPS if step.word == "ARG")
    assert index == "PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu"
    pip = [step.text for step in STEPS if "pip install" in step.text]
    assert pip, "nothing is installed"
    assert all("-c constraints.txt" in text for text in pip), "the versions that the tests were run with"
    assert "torch==" in pip[0], "before anything that would bring another build of it"


def test_the_extras_are_there() -> None:
    extras = set(re.search(r"'\.\[(.*)\]'", (ROOT / "Dockerfile").read_text())[1].split(","))  # type: ignore[index]
    declared = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    assert extras <= declared
    assert "serve" in extras


def test_it_is_not_root() -> None:
    assert only("USER").text == "10001:10001"
    after = FINAL[FINAL.index(only("USER")) :]
    assert not [step for step in after if step.word in ("RUN", "COPY", "ADD")]
    assert "--uid 10001" in "".join(step.text for step in FINAL if step.word == "RUN")


def test_it_writes_only_where_a_read_only_root_lets_it() -> None:
    volumes = only("VOLUME").listed
    assert volumes == ["/bundles", "/cache"]
    kept = environment(FINAL)
    for name in ("GENRETREE_CACHE", "HF_HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "MPLCONFIGDIR"):
        assert kept[name].startswith(("/cache", "/tmp")), name
    assert kept["PYTHONDONTWRITEBYTECODE"] == "1"
    made = next(step.text for step in FINAL if "mkdir" in step.text)
    assert all(f" {volume}" in made.split("chown")[1] for volume in volumes), (
        "an empty volume takes its owner from these"
    )
    assert only("WORKDIR").text == "/tmp"


def test_health_is_asked_with_python_alone() -> None:
    words = only("HEALTHCHECK").listed
    assert words[:2] == ["python", "-c"]
    compile(words[2], "HEALTHCHECK", "exec")
    port = only("EXPOSE").text
    assert f"http://127.0.0.1:{port}/healthz" in words[2]
    assert only("CMD").listed[-2:] == ["--port", port]
    assert only("ENTRYPOINT").listed == ["genretree"]
    assert only("CMD").listed[:2] == ["serve", "/bundles/default"]


def test_no_compiler_is_left() -> None:
    assert "-slim" in only("FROM").text
    assert not any("apt-get" in step.text for step in FINAL)
    assert not any("pip" in step.text for step in FINAL if step.word == "RUN")
    assert any(step.text.startswith("! command -v cc") and "gcc" in step.text for step in FINAL)


def test_nothing_comes_from_elsewhere() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert not re.search(r"\b(curl|wget|git clone|ADD)\b", text)
    assert not re.search(r"(?i)token|password|secret", text)
    bases = {step.text.split()[0] for step in STEPS if step.word == "FROM"}
    assert len(bases) == 1, "what is built in one system runs in the same"


def _ignored(name: str) -> bool:
    """Say whether the builder never sees a file, as the last line of .dockerignore that fits decides."""
    hidden = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip().removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        tail = pattern.removeprefix("**/")
        parts = Path(name).parts
        fits = fnmatch.fnmatch(parts[0], pattern) or (tail != pattern and any(fnmatch.fnmatch(p, tail) for p in parts))
        if fits:
            hidden = not line.startswith("!")
    return hidden


def test_the_builder_sees_what_is_copied_and_nothing_else() -> None:
    copied = [
        name for step in STEPS if step.word == "COPY" and "--from" not in step.text for name in step.text.split()[:-1]
    ]
    assert set(copied) == {"constraints.txt", "pyproject.toml", "README.md", "LICENSE", "src"}
    for name in copied:
        assert (ROOT / name).exists()
        assert not _ignored(name)
    for name in (
        ".git/config",
        ".venv/bin/python",
        "quickstart/cnn",
        "tests/conftest.py",
        ".env",
        "src/a/__pycache__/b.pyc",
    ):
        assert _ignored(name), name
    assert not _ignored("src/genretree/cli/use.py")


# -- the very steps ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Take the steps of the stage `build`, with /opt and /build in a folder of the test."""
    if os.environ.get("GENRETREE_TEST_CONTAINER") != "1":
        pytest.skip("takes two minutes and 2 GB: GENRETREE_TEST_CONTAINER=1")
    root = tmp_path_factory.mktemp("container")
    context, opt = root / "build", root / "opt"
    context.mkdir()
    opt.mkdir()
    settings = {**os.environ, **environment([step for step in STEPS if step.stage == 0])}
    settings["PATH"] = f"{Path(sys.base_prefix) / 'bin'}:{settings['PATH']}"
    for step in STEPS:
        if step.stage or step.word not in ("COPY", "RUN"):
            continue
        if step.word == "COPY":
            for name in step.text.split()[:-1]:
                _copy(ROOT / name, context / name)
            continue
        command = step.text.replace("/opt/genretree", str(opt / "genretree"))
        subprocess.run(["sh", "-euc", command], cwd=context, env=settings, check=True)
    shutil.rmtree(context)
    yield opt / "genretree"
    shutil.rmtree(opt)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


@pytest.mark.slow
def test_the_steps_make_an_environment_that_works_without_writing_into_it(built: Path, tmp_path: Path) -> None:
    cache, scratch = tmp_path / "cache", tmp_path / "tmp"
    settings = {"PATH": f"{built}/bin:/usr/bin:/bin", "HOME": "/nonexistent", "TMPDIR": str(scratch)}
    for name, value in environment(FINAL).items():
        if name != "PATH":
            settings[name] = value.replace("/cache", str(cache), 1) if value.startswith("/cache") else value
            settings[name] = settings[name].replace("/tmp", str(scratch), 1)
    for folder in (cache, scratch):
        folder.mkdir(mode=0o777)
    song = tmp_path / "song.wav"
    sf.write(song, synthesise("Drone", 1, 12.0), SAMPLE_RATE)
    before = _state(built)
    versions = subprocess.run(
        [built / "bin" / "python", "-c", "import torch; print(torch.__version__, torch.cuda.is_available())"],
        env=settings, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert versions.split()[0].startswith(re.findall(r"torch==([\d.]+)", MAKEFILE)[0])
    code = (
        "import sys; from genretree.sound.slices import iter_slices; from genretree.settings import ImageSettings;"
        "print(len(list(iter_slices(sys.argv[1], ImageSettings()))))"
    )
    drawn = subprocess.run(
        [built / "bin" / "python", "-c", code, song], env=settings, check=True, capture_output=True, text=True
    )
    assert int(drawn.stdout) == 1
    helped = subprocess.run([built / "bin" / "genretree", "--help"], env=settings, check=True, capture_output=True)
    assert b"predict" in helped.stdout
    assert _state(built) == before, "something was written into the environment, which is read-only in the container"


def _state(folder: Path) -> dict[str, float]:
    return {str(path.relative_to(folder)): path.stat().st_mtime for path in folder.rglob("*") if path.is_file()}
