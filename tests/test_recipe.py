"""Recipes are run, small, so that they can't rot."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file

from genretree.bundle.bundle import load_bundle
from genretree.cli import main
from genretree.corpus.store import Store
from genretree.errors import SettingsError
from genretree.models import family_names, get_family
from genretree.models.families import ast, efficientnet
from genretree.models.families.tagger import model as tagger_model
from genretree.models.pretrained import musicnn_features, musicnn_weights
from genretree.training.recipes import Recipe, recipe_names
from small_weights import write_mn04, write_musicnn

pytestmark = pytest.mark.slow

# What makes any recipe small: nothing else of it is changed.
SMALL: dict[str, dict[str, Any]] = {
    "cnn": {"epochs": 1, "image_size": 32},
    "efficientnet-b0": {"epochs": 1, "image_size": 32, "weights": "none"},
    "ast": {"epochs": 1, "image_size": 32, "weights": "none"},
    "boosting": {"epochs": 5, "image_size": 16, "components": 10},
    "musicnn": {"patches": 1, "Cs": [0.1]},
    "tagger": {"patches": 1},
    "ensemble": {
        "folds": 2,
        "members": {"musicnn": {"patches": 1, "Cs": [0.1]}, "boosting": {"epochs": 5, "image_size": 16}},
    },
}


@pytest.fixture(scope="module", autouse=True)
def _quickly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give MusiCNN random weights and short patches, and the networks of transformers fewer layers."""
    folder = str(write_musicnn(tmp_path_factory.mktemp("weights"), "msd", "mtt"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(musicnn_features, "PATCH_FRAMES", 24)
        patch.setattr(tagger_model, "WINDOW_FRAMES", 100)
        patch.setitem(SMALL["tagger"], "weights", str(write_mn04(tmp_path_factory.mktemp("weights"))))
        thin = {"width_coefficient": 0.2, "depth_coefficient": 0.2, "hidden_dim": 256}
        patch.setattr(efficientnet, "_B0", {**efficientnet._B0, **thin})
        narrow = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        patch.setattr(ast, "_SMALL", {**ast._SMALL, **narrow})
        patch.setattr(musicnn_weights, "weights_file", lambda name: Path(folder) / f"musicnn-{name}.safetensors")
        patch.setattr(musicnn_weights, "DIGESTS", {name: _digest(folder, name) for name in ("msd", "mtt")})
        yield


def _digest(folder: str, name: str) -> str:
    return musicnn_weights.digest(load_file(Path(folder) / f"musicnn-{name}.safetensors"))


def test_every_family_has_a_recipe_of_ours_and_those_of_the_study_the_published_one() -> None:
    families = [name for name in family_names() if get_family(name).__module__.startswith("genretree.")]
    published = [name for name in families if name not in ("tagger", "musicnn", "ensemble", "backbone")]
    assert set(recipe_names()) >= {f"{family}-{kind}" for family in published for kind in ("published", "scratch")}
    assert set(recipe_names()) >= {f"{family}-ours" for family in families if family != "backbone"}


# The published ones are trained in tests/corpus/test_ccmusic.py, on the data set they are for.
@pytest.mark.parametrize("name", [name for name in recipe_names() if not name.endswith("-published")])
def test_a_recipe_trains(name: str, store: Store, tmp_path: Path) -> None:
    family = Recipe.load(name).family
    words = [f"--set={key}={json.dumps(value)}" for key, value in SMALL[family].items()]
    command = ["train", str(store.folder), "--recipe", name, "--out", str(tmp_path / "bundle"), "--quiet", *words]
    result = CliRunner().invoke(main, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    expected = {**Recipe.load(name).settings, **SMALL[family]}
    assert load_bundle(tmp_path / "bundle").settings == get_family(family).settings_type.build(expected)


@pytest.mark.parametrize("name", recipe_names())
def test_its_commands_are_ones_that_can_be_typed(name: str) -> None:
    recipe = Recipe.load(name)
    words = [shlex.split(line) for line in recipe.command]
    assert ["genretree"] * len(words) == [line[0] for line in words]
    for line in words:
        main.commands[line[1]].make_context(line[1], line[2:])  # an unknown option or a missing argument raises
    assert any(name in line for line in words)
    assert recipe.time
    assert recipe.data
    # What could not be run says so; ours have figures of our own.
    assert recipe.results or "not run" in recipe.time
    assert not name.endswith("-ours") or (all(result.seconds for result in recipe.results) and recipe.results)


@pytest.mark.parametrize("family", ["cnn", "efficientnet-b0", "ast"])
def test_hours_are_the_same_in_the_recipe_and_in_the_documentation(family: str) -> None:
    recipe = Recipe.load(f"{family}-published")
    assert recipe.speed is not None
    epochs = recipe.settings["epochs"]
    hours = f"{recipe.speed.hours(epochs):.1f}"
    page = (Path(__file__).parents[1] / "docs" / "reproduce.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| {family} | ") and line.count("|") == 6)
    assert [cell.strip() for cell in row.split("|")[3:6]] == [
        f"{recipe.speed.slices_per_second:g}",
        str(epochs),
        hours,
    ]
    assert f"take {hours} hours" in recipe.time


def test_the_time_of_boosting_is_that_of_its_own_components() -> None:
    """`boosting-published` once had the time of the randomised components, which it no longer takes."""
    recipe = Recipe.load("boosting-published")
    assert recipe.settings["pca"] == "incremental"
    page = (Path(__file__).parents[1] / "docs" / "reproduce.md").read_text(encoding="utf-8")
    for said in ("about 15 minutes", "IncrementalPCA", "656 s"):
        assert said in recipe.time
        assert said in page


def test_options_go_before_the_recipe(store: Store, tmp_path: Path) -> None:
    words = ["--recipe", "boosting-scratch", "--epochs", "3", "--set", "image_size=16", "--set", "components=5"]
    command = ["train", str(store.folder), "--out", str(tmp_path / "b"), "--quiet", *words]
    assert CliRunner().invoke(main, command).exit_code == 0
    found = load_bundle(tmp_path / "b").settings.model_dump()
    assert (found["epochs"], found["max_leaf_nodes"]) == (3, 15)


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("family: cnn\nsummary: s\ncommand: [c]\ndata: d\ntime: t\nsettings: {dropout: 0.5}\n")
    assert Recipe.load(path).settings == {"dropout": 0.5}
    for text, message in [
        (
            "family: cnn\nsummary: s\ncommand: [c]\ndata: d\ntime: t\nsettings: {dropuot: 0.5}\n",
            "did you mean 'dropout'",
        ),
        ("family: cnnn\nsummary: s\ncommand: [c]\ndata: d\ntime: t\nsettings: {}\n", "did you mean 'cnn'"),
        ("[1, 2]", "not a recipe"),
        ("a: [", "not valid YAML"),
    ]:
        path.write_text(text)
        with pytest.raises(SettingsError, match=message):
            Recipe.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="can't be read as text"):
        Recipe.load(path)
    with pytest.raises(SettingsError, match="no such recipe file"):
        Recipe.load(tmp_path / "none.yaml")
    with pytest.raises(SettingsError, match="did you mean 'cnn-ours'"):
        Recipe.load("cnn-our")


def test_either_a_model_or_a_recipe(store: Store, tmp_path: Path) -> None:
    for words in ([], ["--model", "cnn", "--recipe", "cnn-ours"]):
        result = CliRunner().invoke(main, ["train", str(store.folder), "--out", str(tmp_path / "b"), *words])
        assert result.exit_code == 1
        assert "either --model or --recipe" in result.output


def test_the_list_of_recipes() -> None:
    listed = CliRunner().invoke(main, ["recipes"]).output
    assert all(name in listed for name in recipe_names())
    assert "genretree train STORE --recipe cnn-ours" in CliRunner().invoke(main, ["recipes", "cnn-ours"]).output
    read = json.loads(CliRunner().invoke(main, ["recipes", "--json"]).output)
    assert read["ast-published"]["settings"]["modalities"] == ["mel"]
