"""A bundle's description is refused in one line before anything that it says is used."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from genretree.bundle.bundle import load_bundle
from genretree.bundle.manifest import MAX_BYTES, MAX_DEPTH, _digest, read_description
from genretree.cli import main
from genretree.corpus.store import Store
from genretree.errors import BundleError
from genretree.files import sha256_file
from genretree.models.neural.network import BACKBONE_FILE
from genretree.training.train import train


@pytest.fixture(scope="module")
def made(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"epochs": 2, "image_size": 16, "components": 5}
    return train(store, "boosting", tmp_path_factory.mktemp("bundle") / "made", settings).folder


def signed(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a description and sign it again, as an attacker would."""
    content = json.loads((folder / "bundle.json").read_text())
    del content["sha256"]
    change(content)
    (folder / "bundle.json").write_text(json.dumps({**content, "sha256": _digest(content)}))


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


BAD: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "nested": (lambda c: c["training"].update(deep=nested(MAX_DEPTH)), "nested more than"),
    "family": (lambda c: c.update(family=["cnn"]), "'family' has the wrong type"),
    "taxonomy": (lambda c: c.update(taxonomy=[1]), "'taxonomy' has the wrong type"),
    "leaves": (lambda c: c["taxonomy"].update(leaves="Rock"), "not a saved genre tree"),
    "leaf": (lambda c: c["taxonomy"]["leaves"].append("Rock"), "not a saved genre tree"),
    "number as a name": (lambda c: c["taxonomy"]["leaves"].append([3]), "not a genre name"),
    "escape in a name": (lambda c: c["taxonomy"]["leaves"].append(["a\x1b[2J"]), "control characters"),
    "long name": (lambda c: c["taxonomy"]["leaves"].append(["x" * 10**6]), "characters, more than"),
    "training": (lambda c: c.update(training=[]), "'training' has the wrong type"),
    "history": (lambda c: c["training"].update(history={}), "'history' has the wrong type"),
    "facts": (lambda c: c["training"].update(facts=3), "'facts' has the wrong type"),
    "settings": (lambda c: c.update(settings="x"), "'settings' has the wrong type"),
    "calibration": (lambda c: c.update(calibration="x"), "'calibration' has the wrong type"),
    "temperature": (lambda c: c.update(calibration={"track": [float("nan")] * 3, "slice": [1, 1, 1]}), "bundle.json"),
    "files": (lambda c: c.update(files=["a"]), "'files' has the wrong type"),
    "hash": (lambda c: c["files"].update({"a.csv": 3}), "not a SHA-256"),
    "long file name": (lambda c: c["files"].update({"a" * 10_000: "0" * 64}), "too long"),
    "escape in a file name": (lambda c: c["files"].update({"a\x9b": "0" * 64}), "control characters"),
    "many files": (lambda c: c["files"].update({str(i): "0" * 64 for i in range(2000)}), "at most 1000"),
    "long file name of few letters": (lambda c: c["files"].update({"東" * 100: "0" * 64}), "too long"),
    "half a character in a file name": (lambda c: c["files"].update({"\ud800": "0" * 64}), "control characters"),
    "half a character in a name": (lambda c: c["taxonomy"]["leaves"].append(["\ud800"]), "control characters"),
    "outside": (lambda c: c["files"].update({"../x": "0" * 64}), "outside the bundle"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_descriptions_are_refused_in_one_line(name: str, made: Path, tmp_path: Path) -> None:
    change, reason = BAD[name]
    folder = tmp_path / "bundle"
    shutil.copytree(made, folder)
    signed(folder, change)
    with pytest.raises(BundleError, match=reason) as caught:
        load_bundle(folder)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 1000
    assert str(folder) in text


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 10**6,
        b'{"a":' * 10**5,
        b'{"format": 1' + b"0" * 10**5 + b"}",
        b" " * (MAX_BYTES + 1),
        b'{"format": 1, "format": 1}',
        b"\xff\xfe{}",
        b'"' * 10**6,
        b"",
        b"null",
        b'\\"' * 10**6,  # each of these could begin a string that never ends
        b'"' + b'\\"' * 10**6,
        b'"' + b"a" * (MAX_BYTES - 1),
    ],
)
def test_raw_bytes_are_bounded_before_they_are_parsed(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_bytes(raw)
    began = time.process_time()
    with pytest.raises(BundleError, match=r"bundle\.json"):
        read_description(tmp_path)
    assert time.process_time() - began < 5


def test_brackets_within_strings_do_not_nest(tmp_path: Path) -> None:
    text = json.dumps({"a": "[" * 100, 'b"\\': '\\"[[[' * 100, "c\\": ["{" * 100]})
    (tmp_path / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match="bundle format"):
        read_description(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(genretree="[/x]"),
        lambda c: c["taxonomy"]["leaves"].append(["Rock[" + "]", "[bold]", "x"]),
        lambda c: c["training"].update(finished="[/x]", machine="[link=file:///etc]a[/link]"),
        lambda c: c["training"].update(store={}, split={}),
        lambda c: c["taxonomy"].update(levels=["[bold]", "b", "c"]),
    ],
)
def test_what_a_description_holds_is_shown_as_it_is(
    change: Callable[[dict[str, Any]], None], made: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "[/bundle]"
    shutil.copytree(made, folder)
    signed(folder, change)
    result = CliRunner().invoke(main, ["info", str(folder)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "[/bundle]" in result.output


@pytest.mark.parametrize(
    "config",
    [
        *(
            "[" * 10**5,
            '{"kernel_sizes": "x"}',
            '{"hidden_dim": 0, "width_coefficient": "a\\nb"}',
            '{"image_size": {}}',
        ),
        *('{"hidden_dim": 100000}', '{"num_hidden_layers": 2000000}', '{"num_block_repeats": [9999999]}', "[]"),
    ],
)
def test_wrong_values_for_a_network_are_refused_in_one_line(config: str, made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(made, folder)
    (folder / BACKBONE_FILE).write_text(config)

    def change(content: dict[str, Any]) -> None:
        content["family"], content["settings"] = "efficientnet-b0", {"weights": "none"}
        content["files"][BACKBONE_FILE] = sha256_file(folder / BACKBONE_FILE)

    signed(folder, change)
    with pytest.raises(BundleError) as caught:
        load_bundle(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_part_that_links_out_of_the_bundle_is_refused(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(made, folder)
    part = next(name for name in read_description(folder)["files"] if name.endswith(".safetensors"))
    outside = tmp_path / "elsewhere"
    (folder / part).replace(outside)
    (folder / part).symlink_to(outside)
    with pytest.raises(BundleError, match="a link to a file outside"):
        load_bundle(folder)


def test_a_good_description_still_loads(made: Path) -> None:
    assert load_bundle(made).family == "boosting"
