"""Recipes: how a family is trained, for what data, and what came of it, each a YAML file."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, model_validator

from genretree.errors import SettingsError
from genretree.models import get_family
from genretree.settings import Settings

_SUFFIX = ".yaml"


class ReportedResult(Settings):
    """What a recipe gave: on which data, how cut, where, in what time."""

    data: str
    split: str = Field(description="how the tracks were cut, and how many were tested")
    machine: str
    seed: int = Field(ge=0)
    seconds: float | None = Field(None, description="of training")
    unit: str = Field(description="slice or track")
    accuracy: dict[str, float] = Field(description="in %, by level")


class Speed(Settings):
    """How fast training was measured to be, and on how many slices it is to run: what the hours are worked out from."""

    slices_per_second: float = Field(gt=0, description="in training, as benchmarks/full_run.py measures it")
    machine: str
    train_slices: int = Field(29100, ge=1)
    validation_slices: int = Field(3637, ge=0)

    def hours(self, epochs: int) -> float:
        """Hours of a run of all epochs; scoring a slice takes about a third of a training step on it."""
        return epochs * (self.train_slices + self.validation_slices / 3) / self.slices_per_second / 3600


class Recipe(Settings):
    """A family's settings with the command that uses them.

    Parameters
    ----------
    family : str
    summary : str
        One line.
    settings : mapping
        Every setting that is not the family's default.
    data : str
        What it was made for, and in which form the commands want it.
    command : list of str
        What to type, from the data to the figure.
    time : str
        How long training takes, and on what; worked out from `speed` if that is given.
    speed : Speed, optional
    results : list of ReportedResult
        The figures obtained; empty where it has not been run at full size.
    """

    family: str
    summary: str
    settings: dict[str, Any]
    data: str
    command: tuple[str, ...] = Field(min_length=1)
    time: str
    speed: Speed | None = None
    results: tuple[ReportedResult, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _work_out_time(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "time" in values or not isinstance(values.get("speed"), dict):
            return values
        speed, epochs = Speed.model_validate(values["speed"]), (values.get("settings") or {}).get("epochs")
        if not isinstance(epochs, int):
            return values
        text = (
            f"not run on ccmusic yet; at {speed.slices_per_second:g} slices/s ({speed.machine}) {epochs} epochs of "
            f"{speed.train_slices:,} slices, validated on {speed.validation_slices:,}, take "
            f"{speed.hours(epochs):.1f} hours"
        )
        return {**values, "time": text}

    @classmethod
    def load(cls, name: str | Path) -> Self:
        """Read a recipe by its name, or by the path of a YAML file.

        Raises
        ------
        SettingsError
            For an unknown name (with the likely intended one), a file that is no recipe, or a setting the family lacks.
        """
        path = Path(name)
        if path.suffix in (".yaml", ".yml"):
            if not path.is_file():
                raise SettingsError(f"{path}: no such recipe file")
            try:
                return cls._parse(path.read_text(encoding="utf-8"), str(path))
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(f"{path}: can't be read as text ({error})") from error
        known = recipe_names()
        if str(name) not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(known)}"
            raise SettingsError(f"no recipe '{name}'; {hint}")
        text = (_folder() / f"{name}{_SUFFIX}").read_text(encoding="utf-8")
        return cls._parse(text, str(name))

    @classmethod
    def _parse(cls, text: str, where: str) -> Self:
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SettingsError(f"{where}: not YAML ({error})") from error
        if not isinstance(content, dict):
            raise SettingsError(f"{where}: no recipe; it needs family, summary, settings, command and time")
        try:
            recipe = cls.build(content)
            get_family(recipe.family).settings_type.build(recipe.settings)
        except SettingsError as error:
            raise SettingsError(f"{where}: {error}") from error
        return recipe


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(item.name.removesuffix(_SUFFIX) for item in _folder().iterdir() if item.name.endswith(_SUFFIX))


def _folder() -> Any:
    return resources.files("genretree") / "recipes"
