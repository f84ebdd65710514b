from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import median_filter

from genretree.models.features.image_statistics import STATISTICS, image_statistics, running_median
from genretree.models.linear.logistic import fit_linear


def _images(size: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 3, size, size), dtype=np.uint8)


@pytest.mark.parametrize("size", [32, 64, 224])
def test_every_image_size_gives_the_same_number(size: int) -> None:
    found = image_statistics(_images(size))
    assert found.shape == (4, STATISTICS)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert image_statistics(_images(size)[:0]).shape == (0, STATISTICS)


def test_statistics_are_independent_between_slices() -> None:
    images = _images()
    np.testing.assert_allclose(image_statistics(images[2:3])[0], image_statistics(images)[2], rtol=0, atol=1e-6)
    assert np.isfinite(image_statistics(np.zeros_like(images))).all()


def test_beat_changes_rhythm_but_not_means() -> None:
    steady = np.full((1, 3, 224, 224), 100, np.uint8)
    beaten = steady.copy()
    beaten[..., ::28] = 220  # eight times in the slice
    first, second = image_statistics(steady)[0], image_statistics(beaten)[0]
    rhythm = slice(5 * 32, 5 * 32 + 16)
    assert (second[rhythm] - first[rhythm]).argmax() == 1  # modulations 5 to 8
    assert np.abs(second[:32] - first[:32]).max() < 0.05


def test_blocks_have_equal_weight_whatever_their_width() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 200)
    signal = (truth + rng.standard_normal(200))[:, None].astype(np.float32)
    wide = np.repeat(signal, 400, axis=1)
    features = np.concatenate([signal, wide], axis=1)
    head = fit_linear(features, truth, 0.1, widths=[1, 400])
    share = np.abs(head.weights[1] / head.scale)
    assert share[0] == pytest.approx(share[1:].sum(), rel=0.05)


@pytest.mark.parametrize("width", [1, 3, 9, 15])
@pytest.mark.parametrize("axis", [0, 1])
def test_running_median_equals_scipy(width: int, axis: int) -> None:
    rows = (np.random.default_rng(0).integers(0, 256, (40, 33)) / 255).astype(np.float32)
    size = (width, 1) if axis == 0 else (1, width)
    np.testing.assert_array_equal(running_median(rows, width, axis), median_filter(rows, size))
