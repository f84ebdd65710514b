"""Recipes: training settings of a family with data, commands and results, as YAML files."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, model_validator

from genretree.checks import suggest
from genretree.errors import SettingsError
from genretree.models import get_family
from genretree.settings import Settings

_SUFFIX = ".yaml"


class ReportedResult(Settings):
    """Results of a recipe, with data, split, machine and training time."""

    data: str
    split: str = Field(description="the split, and the number of test tracks")
    machine: str
    seed: int = Field(ge=0)
    seconds: float | None = Field(None, description="training time")
    unit: str = Field(description="slice or track")
    accuracy: dict[str, float] = Field(description="in %, by level")


class Speed(Settings):
    """Measured training throughput and data set size, from which the training time is estimated."""

    slices_per_second: float = Field(gt=0, description="training throughput, as measured by benchmarks/full_run.py")
    machine: str
    train_slices: int = Field(29100, ge=1)
    validation_slices: int = Field(3637, ge=0)

    def hours(self, epochs: int) -> float:
        """Estimate the training time in hours; validating a slice takes about a third of the time of training on it."""
        return epochs * (self.train_slices + self.validation_slices / 3) / self.slices_per_second / 3600


class Recipe(Settings):
    """Settings of a family with the commands that use them.

    Parameters
    ----------
    family : str
    summary : str
        One line.
    settings : mapping
        Settings that differ from the family's defaults.
    data : str
        The intended data, and the form that the commands expect.
    command : list of str
        Commands from the data to the result.
    time : str
        Training time and machine; estimated from `speed` if that is set.
    speed : Speed, optional
    results : list of ReportedResult
        Results; empty if the recipe has not been run at full size.
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
    def _estimate_time(cls, values: Any) -> Any:
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
        """Load a recipe by name or from a YAML file.

        Parameters
        ----------
        name : str or path
            A name of `recipe_names`, or the path of a `.yaml` file.

        Returns
        -------
        Recipe

        Raises
        ------
        SettingsError
            For an unknown name, a file that is not a recipe, or a setting that the family lacks.
        """
        path = Path(name)
        if path.suffix in (".yaml", ".yml"):
            if not path.is_file():
                raise SettingsError(f"{path}: no such recipe file; check the path")
            try:
                return cls._parse(path.read_text(encoding="utf-8"), str(path))
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(f"{path}: can't be read as text ({error})") from error
        names = recipe_names()
        if str(name) not in names:
            raise SettingsError(f"unknown recipe '{name}'; {suggest(str(name), names)}")
        text = (_folder() / f"{name}{_SUFFIX}").read_text(encoding="utf-8")
        return cls._parse(text, str(name))

    @classmethod
    def _parse(cls, text: str, where: str) -> Self:
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SettingsError(f"{where}: not valid YAML ({error})") from error
        if not isinstance(content, dict):
            raise SettingsError(f"{where}: not a recipe; it must define family, summary, settings, command and time")
        try:
            recipe = cls.build(content)
            get_family(recipe.family).settings_type.build(recipe.settings)
        except SettingsError as error:
            raise SettingsError(f"{where}: {error}") from error
        return recipe


def recipe_names() -> list[str]:
    """List the names of the bundled recipes."""
    return sorted(item.name.removesuffix(_SUFFIX) for item in _folder().iterdir() if item.name.endswith(_SUFFIX))


def _folder() -> Any:
    return resources.files("genretree") / "recipes"
