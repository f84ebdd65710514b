"""The Dockerfile is what docs/container.md says, and its steps work in a plain virtual environment."""

from __future__ import annotations

import fnmatch
import json
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile as sf
from packaging.requirements import Requirement

from genretree.settings import SAMPLE_RATE
from small_corpus import synthesise

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()


@dataclass(frozen=True)
class Instruction:
    """An instruction of a Dockerfile.

    Parameters
    ----------
    stage : int
        Index of its stage; -1 before the first FROM.
    name : str
        In upper case.
    flags : dict of str to str
        Options of the instruction, such as `from` of COPY.
    text : str
        Arguments, without flags. Continued lines are joined.
    """

    stage: int
    name: str
    flags: dict[str, str]
    text: str

    @property
    def words(self) -> list[str]:
        """Arguments, in exec form (a JSON list) or separated by spaces."""
        return json.loads(self.text) if self.text.startswith("[") else shlex.split(self.text)

    @property
    def commands(self) -> list[list[str]]:
        """Commands of a RUN instruction that `&&` joins, as lists of words."""
        lexer = shlex.shlex(self.text, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        commands: list[list[str]] = [[]]
        for word in lexer:
            if word == "&&":
                commands.append([])
            else:
                commands[-1].append(word)
        return commands


def parse_dockerfile(text: str) -> list[Instruction]:
    """Parse a Dockerfile that has no here-documents."""
    instructions: list[Instruction] = []
    stage, continued = -1, ""
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):  # also between continued lines
            continue
        continued += line.strip()
        if continued.endswith("\\"):
            continued = continued[:-1]
            continue
        name, _, rest = continued.partition(" ")
        continued, rest, flags = "", rest.strip(), {}
        while rest.startswith("--"):
            flag, _, rest = rest.partition(" ")
            key, _, flags[key] = flag.removeprefix("--").partition("=")
            rest = rest.strip()
        stage += name.upper() == "FROM"
        instructions.append(Instruction(stage, name.upper(), flags, rest))
    return instructions


INSTRUCTIONS = parse_dockerfile((ROOT / "Dockerfile").read_text())
BUILD = [each for each in INSTRUCTIONS if each.stage == 0]
FINAL = [each for each in INSTRUCTIONS if each.stage == INSTRUCTIONS[-1].stage]


def find_only(name: str) -> Instruction:
    """Return the only instruction of the last stage that has a name."""
    (instruction,) = (each for each in FINAL if each.name == name)
    return instruction


def list_commands(instructions: list[Instruction]) -> list[list[str]]:
    return [command for each in instructions if each.name == "RUN" for command in each.commands]


def read_variables(instructions: list[Instruction], name: str = "ENV") -> dict[str, str]:
    """Read the variables that ENV (or ARG) instructions set."""
    return dict(word.split("=", 1) for each in instructions if each.name == name for word in each.words)


def test_instructions_are_parsed() -> None:
    text = """# comment
from base AS build
RUN one 'a && b' \\
    # comment
    && two \\

    --three
COPY --from=build --chown=1:2 a b c/
HEALTHCHECK --timeout=5s \\
    CMD ["x", "y z"]
CMD ["x", "y z"]
"""
    start, run, copy, health, command = parse_dockerfile(text)
    assert start == Instruction(0, "FROM", {}, "base AS build")
    assert run.commands == [["one", "a && b"], ["two", "--three"]]
    assert (copy.flags, copy.words) == ({"from": "build", "chown": "1:2"}, ["a", "b", "c/"])
    assert (health.flags, health.text) == ({"timeout": "5s"}, 'CMD ["x", "y z"]')
    assert command.words == ["x", "y z"]


def test_torch_is_the_one_of_the_makefile() -> None:
    installs = [command for command in list_commands(BUILD) if "install" in command]
    for command in installs:
        assert command[1:6] == ["-m", "pip", "install", "-c", "constraints.txt"], "the versions that the tests use"
    torch, package = (command[6:] for command in installs)  # torch before anything that would install another build
    assert torch == [word for word in MAKEFILE.split() if word.startswith("torch==")]
    assert package[0].startswith(".[")
    assert read_variables(BUILD, "ARG") == {"PIP_EXTRA_INDEX_URL": "https://download.pytorch.org/whl/cpu"}


def test_the_extras_are_there() -> None:
    (package,) = (word for command in list_commands(BUILD) for word in command if word.startswith(".["))
    extras = Requirement(f"genretree{package.removeprefix('.')}").extras
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extras <= set(project["optional-dependencies"])
    assert "serve" in extras


def test_it_is_not_root() -> None:
    assert find_only("USER").words == ["10001:10001"]
    after = FINAL[FINAL.index(find_only("USER")) :]
    assert not {each.name for each in after} & {"RUN", "COPY", "ADD"}
    (useradd,) = (command for command in list_commands(FINAL) if command[0] == "useradd")
    assert useradd[useradd.index("--uid") + 1] == "10001"


def test_it_writes_only_where_a_read_only_root_lets_it() -> None:
    volumes = find_only("VOLUME").words
    assert volumes == ["/bundles", "/cache"]
    variables = read_variables(FINAL)
    for name in ("GENRETREE_CACHE", "HF_HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "MPLCONFIGDIR"):
        assert Path(variables[name]).parts[1] in ("cache", "tmp"), name
    assert variables["PYTHONDONTWRITEBYTECODE"] == "1"
    commands = list_commands(FINAL)
    assert ["mkdir", *volumes] in commands
    assert ["chown", "10001:10001", *volumes] in commands, "an empty volume takes its owner from these"
    assert find_only("WORKDIR").words == ["/tmp"]


def test_health_is_asked_with_python_alone() -> None:
    kind, _, words = find_only("HEALTHCHECK").text.partition(" ")
    assert kind == "CMD"
    program, option, code = json.loads(words)
    assert (program, option) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")
    (port,) = find_only("EXPOSE").words
    assert f"http://127.0.0.1:{port}/healthz" in code
    assert find_only("ENTRYPOINT").words == ["genretree"]
    assert find_only("CMD").words == ["serve", "/bundles/default", "--host", "0.0.0.0", "--port", port]


def test_no_compiler_is_left() -> None:
    assert find_only("FROM").words[0].partition(":")[2].split("-")[1] == "slim"
    commands = list_commands(FINAL)
    for compiler in ("cc", "gcc", "clang", "make"):
        assert ["!", "command", "-v", compiler] in commands
    programs = {command[0] for command in commands if command[0] != "!"}
    assert programs == {"groupadd", "useradd", "mkdir", "chown"}, "none of them installs anything"


def test_nothing_comes_from_elsewhere() -> None:
    assert "ADD" not in {each.name for each in INSTRUCTIONS}
    programs = {Path(command[0]).name for command in list_commands(INSTRUCTIONS)}
    assert not programs & {"curl", "wget", "git"}
    variables = read_variables(INSTRUCTIONS) | read_variables(INSTRUCTIONS, "ARG")
    for secret in ("token", "password", "secret"):
        assert not any(secret in name.lower() for name in variables)
    assert not any(each.flags for each in INSTRUCTIONS if each.name == "RUN"), "no mounted secrets"
    bases = {each.words[0] for each in INSTRUCTIONS if each.name == "FROM"}
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
    copies = [each for each in INSTRUCTIONS if each.name == "COPY" and "from" not in each.flags]
    copied = [name for each in copies for name in each.words[:-1]]
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
    settings = {**read_variables(BUILD, "ARG"), **os.environ, **read_variables(BUILD)}
    settings["PATH"] = f"{Path(sys.base_prefix) / 'bin'}:{settings['PATH']}"
    for instruction in BUILD:
        if instruction.name == "COPY":
            for name in instruction.words[:-1]:
                _copy(ROOT / name, context / name)
        elif instruction.name == "RUN":
            command = instruction.text.replace("/opt/genretree", str(opt / "genretree"))
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
    for name, value in read_variables(FINAL).items():
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
    (torch,) = (word for word in MAKEFILE.split() if word.startswith("torch=="))
    assert f"torch=={versions.split()[0].partition('+')[0]}" == torch
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
