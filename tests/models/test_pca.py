from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from genretree.models.features import pca as pca_module
from genretree.models.features.pca import StreamingPCA


def _data(n: int = 300, width: int = 120) -> np.ndarray:
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((n, 12)) * np.linspace(6, 1, 12)
    data = hidden @ rng.standard_normal((12, width)) + 0.3 * rng.standard_normal((n, width))
    data[:, 5] = 3.0  # a constant column
    return (data * np.linspace(0.1, 10, width) + 7).astype(np.float32)


@pytest.mark.parametrize("streamed", [False, True])
def test_pca_equals_scikit_learn(streamed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if streamed:
        monkeypatch.setattr(pca_module, "_EXACT_BYTES", 0)
    data = _data()
    ours = StreamingPCA(10, batch_size=64).fit(data)
    reference = make_pipeline(StandardScaler(), PCA(10, svd_solver="full")).fit(data.astype(np.float64))
    np.testing.assert_allclose(
        ours.explained_variance_ratio_, reference[-1].explained_variance_ratio_, rtol=1e-3, atol=1e-5
    )
    expected, found = reference.transform(data), ours.transform(data)
    signs = np.sign((expected * found).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=0.02 * np.abs(expected).max())
    np.testing.assert_allclose(ours.components_ @ ours.components_.T, np.eye(10), atol=1e-4)


@pytest.mark.parametrize("bf16", [False, True])
def test_memory_mapped_bytes_equal_floats(bf16: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pca_module, "_EXACT_BYTES", 0)
    monkeypatch.setattr(pca_module, "fast_bf16", lambda: bf16)
    data = _data()
    data = np.clip(128 + 20 * (data - data.mean(axis=0)) / data.std(axis=0).clip(1), 0, 255).astype(np.uint8)
    np.save(tmp_path / "bytes.npy", data)
    ours = StreamingPCA(8, batch_size=64).fit(np.load(tmp_path / "bytes.npy", mmap_mode="r"))
    reference = make_pipeline(StandardScaler(), PCA(8, svd_solver="full")).fit(data.astype(np.float64))
    np.testing.assert_allclose(
        ours.explained_variance_ratio_, reference[-1].explained_variance_ratio_, rtol=1e-3, atol=1e-5
    )
    # The spaces are the same: cosines of the angles between them.
    cosines = np.linalg.svd(ours.components_ @ reference[-1].components_.T, compute_uv=False)
    np.testing.assert_allclose(cosines, 1, atol=1e-3)


def test_pca_is_a_scikit_learn_estimator() -> None:
    estimator = StreamingPCA(5, batch_size=32)
    copy = clone(estimator).set_params(n_components=4)
    assert copy.get_params()["batch_size"] == 32
    assert make_pipeline(copy).fit_transform(_data()).shape == (300, 4)


def test_no_more_components_than_the_rows_allow() -> None:
    fitted = StreamingPCA(512).fit(_data(20, 50))
    assert fitted.n_components_ == len(fitted.components_) == 19
    with pytest.raises(ValueError, match="at least 2 rows"):
        StreamingPCA().fit(_data(1))


def test_the_bar_counts_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in (0, 1 << 30):
        monkeypatch.setattr(pca_module, "_EXACT_BYTES", limit)
        calls: list[int] = []
        estimator = StreamingPCA(5, batch_size=64, on_batch=lambda calls=calls: calls.append(1))
        estimator.fit(_data())
        assert len(calls) == estimator.n_batches(300, 120)
