from __future__ import annotations

import pytest

from genretree.errors import SettingsError
from genretree.models.families.boosting.settings import BoostingSettings
from genretree.models.neural.settings import CnnSettings
from genretree.settings import ImageSettings


def test_a_slice_has_491_frames() -> None:
    assert ImageSettings().slice_frames == 491


def test_an_unknown_name_is_refused_with_the_likely_one() -> None:
    with pytest.raises(SettingsError, match="did you mean 'learning_rate'"):
        CnnSettings.build({"lerning_rate": 0.1})


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (ImageSettings, {"size": 3}),
        (CnnSettings, {"epochs": 0}),
        (CnnSettings, {"modalities": ["mel", "mel"]}),
        (CnnSettings, {"label_smoothing": [1.0]}),
        (CnnSettings, {"heads": "both"}),
        (BoostingSettings, {"learning_rate": "fast"}),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(kind: type, values: dict) -> None:
    with pytest.raises(SettingsError, match=next(iter(values))):
        kind.build(values)


def test_settings_survive_json_and_cannot_be_changed() -> None:
    settings = CnnSettings.build({"epochs": 3, "modalities": ["mel"]})
    assert CnnSettings.build(settings.model_dump(mode="json")) == settings
    assert CnnSettings.build({"epochs": 3, "modalities": ["mel"]}).digest == settings.digest
    with pytest.raises(Exception, match="frozen"):
        settings.epochs = 4  # type: ignore[misc]


def test_former_names_are_read_unless_the_new_one_is_given_too() -> None:
    assert CnnSettings.build({"balance": 0.5, "shifts": 2}) == CnnSettings.build(
        {"class_weight_power": 0.5, "n_tta_shifts": 2}
    )
    with pytest.raises(SettingsError, match="'balance' is the former name of 'class_weight_power'"):
        CnnSettings.build({"balance": 0.5, "class_weight_power": 0.5})
