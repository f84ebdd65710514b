"""Neutralisation of cues in audio or images, and how a bundle's predictions change by it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genretree.arrays import Float64Array, Int64Array, UInt8Array
from genretree.audit.neutralise_audio import CUTOFF, NOISE_FLOOR, predict_changed_audio
from genretree.bundle.bundle import Bundle
from genretree.corpus.store import Store
from genretree.errors import SoundError
from genretree.evaluation.evaluate import check_images, match_leaves
from genretree.metrics.scores import decode_levels
from genretree.progress import progress_bar
from genretree.settings import CQT_BINS, MODALITIES, TOP_DB
from genretree.sound.features import IMAGES, SliceInputs
from genretree.taxonomy import format_path

_BATCH = 64
_CQT_LOWEST = 32.7032  # Hz, C1
_QUALITY = 40
_MAX_TRACKS = 20  # of a leaf whose audio is changed
_MIN_EXCESS, _ALPHA = 0.25, 0.05  # to say that a class depends on a cue: change beyond the median, significance
_NAMES = "spectrum, level, bandwidth, noise floor, image artefacts"


@dataclass(frozen=True, kw_only=True)
class Neutralisation:
    """Accuracy of a bundle on tracks in which one cue has been neutralised.

    Parameters
    ----------
    cue, description : str
    leaf : str
    tracks : int
    recall, neutralised_recall : float
        Share of the leaf's tracks whose leaf is predicted correctly, before and after, 0 to 1.
    changed : float
        Share of the leaf's tracks whose prediction changes.
    predicted, neutralised_predicted : float
        Share of the tracks of other leaves that get this leaf, before and after.
    loss_p_value, gain_p_value : float
        One-sided sign tests: of the leaf's tracks, more become wrong than right; of the other tracks, more get this
        leaf than lose it.
    """

    cue: str
    description: str
    leaf: str
    tracks: int
    recall: float
    neutralised_recall: float
    changed: float
    predicted: float
    neutralised_predicted: float
    loss_p_value: float
    gain_p_value: float


def neutralise_cues(bundle: Bundle, store: Store, progress: bool = False) -> tuple[tuple[Neutralisation, ...], str]:
    """Predict a store's tracks with and without each cue; tracks of the training data are left out if possible.

    Cues are changed in the audio if at least half of its files are there, in up to 20 tracks of each leaf, and
    otherwise in the images.

    Returns
    -------
    results : tuple of Neutralisation
        One for each cue and leaf; empty if there is no audio and the bundle reads no images.
    note : str

    Raises
    ------
    CorpusError
        If the store does not have the images and features that the bundle needs.
    """
    check_images(bundle, store)
    seen = set(bundle.training.get("tracks_seen", ()))
    tracks = np.unique(store.slice_tracks[store.rows()])
    tracks = tracks[store.track_leaves[tracks] >= 0]
    unseen = np.array([store.tracks["sha256"][track] not in seen for track in tracks.tolist()])
    notes = [] if unseen.any() else ["all tracks are training data of the bundle"]
    tracks = tracks[unseen] if unseen.any() else tracks
    leaves = match_leaves(bundle.taxonomy, store)
    files = [str(path or "") for path in store.tracks.get("file", ())]
    there = np.array([bool(files) and Path(files[track]).is_file() for track in tracks.tolist()])
    if 2 * there.sum() >= len(tracks):
        if not there.all():
            notes.append(f"{(~there).sum()} of {len(tracks)} audio files are missing; cues were not changed in them")
        tracks = tracks[there]
        chosen = choose_tracks(tracks, leaves[tracks])
        if len(chosen) < len(tracks):
            notes.append(f"cues were neutralised in {len(chosen)} of {len(tracks)} tracks")
        try:
            predictions = predict_changed_audio(bundle, [files[track] for track in chosen.tolist()], progress)
            return _compare(bundle, leaves[chosen], predictions), "; ".join(notes)
        except SoundError as error:
            notes.append(f"cues were neutralised in the images, because {error}")
    read = set(bundle.model.input_features)
    if not read & {IMAGES, *MODALITIES}:
        inputs = ", ".join(sorted(read))
        return (), f"{bundle.folder} reads {inputs}, not images, so these cues were not tested for it: {_NAMES}"
    if others := sorted(read - {IMAGES, *MODALITIES}):
        notes.append(f"{bundle.folder} also reads {', '.join(others)}, in which these cues were not changed: {_NAMES}")
    rows = store.rows()
    rows = rows[np.isin(store.slice_tracks[rows], tracks)]
    changes = _changes(store, rows)
    present, position = np.unique(store.slice_tracks[rows], return_inverse=True)
    with progress_bar((len(changes) + 1) * len(rows), "neutralise", "slice", progress) as tick:
        predictions = {"": ("", _predict(bundle, store, rows, position, None, tick))}
        for name, (description, change) in changes.items():
            predictions[name] = (description, _predict(bundle, store, rows, position, change, tick))
    return _compare(bundle, leaves[present], predictions), "; ".join(notes)


def choose_tracks(tracks: Int64Array, leaves: Int64Array) -> Int64Array:
    """Choose up to 20 tracks of each leaf at random."""
    rng = np.random.default_rng(0)
    kept = [rng.permutation(tracks[leaves == leaf])[:_MAX_TRACKS] for leaf in np.unique(leaves).tolist()]
    return np.sort(np.concatenate(kept))


def note_few_tracks(results: Sequence[Neutralisation]) -> list[str]:
    """Say so if a class has too few tracks for a loss to be significant."""
    leaves = {item.leaf: item.tracks for item in results}
    small = [leaf for leaf, tracks in leaves.items() if 0.5**tracks > _ALPHA / len(leaves)]
    if not small:
        return []
    return [
        f"{len(small)} of {len(leaves)} classes have too few held-out tracks for a loss of recall to be significant"
    ]


@dataclass(frozen=True, kw_only=True)
class Dependence:
    """A class whose prediction by a bundle depends on a cue.

    Parameters
    ----------
    leaf, cue, text : str
    """

    leaf: str
    cue: str
    text: str


def find_dependences(results: Sequence[Neutralisation]) -> list[Dependence]:
    """Find the classes whose prediction depends on a cue far more than that of most classes does.

    The sign test of a class must be significant at 5 %, corrected for the number of classes.
    """
    found = []
    for cue in dict.fromkeys(item.cue for item in results):
        items = [item for item in results if item.cue == cue]
        usual_loss = float(np.median([item.recall - item.neutralised_recall for item in items]))
        usual_gain = float(np.median([item.neutralised_predicted - item.predicted for item in items]))
        for item in items:
            loss, gain = item.recall - item.neutralised_recall, item.neutralised_predicted - item.predicted
            alpha = _ALPHA / len(items)
            if item.loss_p_value <= alpha and loss - max(usual_loss, 0.0) >= _MIN_EXCESS:
                text = (
                    f"recall of {item.leaf} falls from {item.recall:.0%} to {item.neutralised_recall:.0%} when {cue} "
                    f"is neutralised (median over classes: {usual_loss:.0%})"
                )
            elif item.gain_p_value <= alpha and gain - max(usual_gain, 0.0) >= _MIN_EXCESS:
                text = (
                    f"{item.leaf} is predicted for {item.neutralised_predicted:.0%} of the other tracks when {cue} is "
                    f"neutralised, and for {item.predicted:.0%} before"
                )
            else:
                continue
            found.append(Dependence(leaf=item.leaf, cue=cue, text=text))
    return found


def _compare(
    bundle: Bundle, leaves: Int64Array, predictions: dict[str, tuple[str, Int64Array]]
) -> tuple[Neutralisation, ...]:
    """Compare predictions without each cue with those of unchanged tracks, whose name is empty."""
    before = predictions[""][1]
    results = []
    for name, (description, after) in predictions.items():
        for leaf in np.unique(leaves).tolist() if name else ():
            own = leaves == leaf
            results.append(
                Neutralisation(
                    cue=name,
                    description=description,
                    leaf=format_path(bundle.taxonomy.leaves[leaf]),
                    tracks=int(own.sum()),
                    recall=float((before[own] == leaf).mean()),
                    neutralised_recall=float((after[own] == leaf).mean()),
                    changed=float((before[own] != after[own]).mean()),
                    predicted=float((before[~own] == leaf).mean()) if (~own).any() else 0.0,
                    neutralised_predicted=float((after[~own] == leaf).mean()) if (~own).any() else 0.0,
                    loss_p_value=_sign_test(before[own] == leaf, after[own] == leaf),
                    gain_p_value=_sign_test(after[~own] == leaf, before[~own] == leaf),
                )
            )
    return tuple(results)


def _sign_test(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return the one-sided p-value of more items being true in the first only than in the second only."""
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    n = only_first + only_second
    return 1.0 if n == 0 else float(binomtest(only_first, n, 0.5, alternative="greater").pvalue)


def _predict(
    bundle: Bundle,
    store: Store,
    rows: Int64Array,
    position: Int64Array,
    change: Callable[[UInt8Array], UInt8Array] | None,
    tick: Callable[..., None],
) -> Int64Array:
    """Predict the leaf of every track, from changed images."""
    parts = []
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        images = np.asarray(store.images[batch])
        arrays = {name: np.asarray(array[batch]) for name, array in store.features.items()}
        arrays[IMAGES] = images if change is None else change(images)
        parts.append(bundle.model.predict_proba(SliceInputs(arrays)))
        tick(len(batch))
    levels = [np.concatenate(each) for each in zip(*parts, strict=True)]
    averaged = bundle.average_slices(levels, position)
    leaves: Int64Array = decode_levels(bundle.taxonomy, bundle.model.heads, averaged)[:, -1]
    return leaves


def _changes(store: Store, rows: Int64Array) -> dict[str, tuple[str, Callable[[UInt8Array], UInt8Array]]]:
    """Return the neutralisations by cue, each with a description."""
    sums = np.zeros((3, store.settings.size))
    level, spread = np.zeros(3), np.zeros(3)
    for row in rows.tolist():
        image = np.asarray(store.images[row], dtype=np.float32)
        sums += image.mean(axis=2)
        level += image.mean(axis=(1, 2))
        spread += image.std(axis=(1, 2))
    mean_rows, level, spread = sums / len(rows), level / len(rows), spread / len(rows)
    kept = _rows_below(store.settings.size, CUTOFF)
    floor = np.float32(255 * (TOP_DB - NOISE_FLOOR) / TOP_DB)

    def match_spectrum(images: UInt8Array) -> UInt8Array:
        values = images.astype(np.float32)
        values[:, :2] += (mean_rows[None, :2] - values[:, :2].mean(axis=3))[..., None].astype(np.float32)
        return _to_uint8(values)

    def match_level(images: UInt8Array) -> UInt8Array:
        values = images.astype(np.float32)
        mean, std = values.mean(axis=(2, 3), keepdims=True), values.std(axis=(2, 3), keepdims=True)
        wanted = (spread[None, :, None, None] / np.maximum(std, 1)).astype(np.float32)
        return _to_uint8((values - mean) * wanted + level[None, :, None, None].astype(np.float32))

    def low_pass(images: UInt8Array) -> UInt8Array:
        values = images.copy()
        for plane, keep in enumerate(kept):
            values[:, plane, ~keep] = values[:, plane].min(axis=(1, 2))[:, None, None]
        return values

    def raise_floor(images: UInt8Array) -> UInt8Array:
        values = images.astype(np.float32)
        values[:, :2] = np.maximum(values[:, :2], floor)
        return _to_uint8(values)

    def encode(images: UInt8Array) -> UInt8Array:
        return np.stack([np.stack([_jpeg(plane) for plane in image]) for image in images])

    return {
        "spectrum": ("the long-term spectrum of every slice is the corpus's", match_spectrum),
        "level": ("brightness and contrast of every image are the corpus's", match_level),
        "bandwidth": (f"mel and CQT are cut off at {CUTOFF / 1000:g} kHz", low_pass),
        "noise floor": (f"nothing is more than {NOISE_FLOOR:g} dB below the maximum", raise_floor),
        "image artefacts": (f"every image is a JPEG of quality {_QUALITY}", encode),
    }


def _rows_below(size: int, hertz: float) -> list[np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Mark the rows of mel and CQT images below a frequency; the first row is the highest."""
    from genretree.audit.cues import mel_hertz
    from genretree.settings import N_MELS

    share = np.arange(size)[::-1] / size
    mel: Float64Array = mel_hertz(N_MELS)[(share * N_MELS).astype(int)]
    cqt: Float64Array = _CQT_LOWEST * 2 ** ((share * CQT_BINS).astype(int) / 12)
    return [mel < hertz, cqt < hertz]


def _to_uint8(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> UInt8Array:
    rounded: UInt8Array = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded


def _jpeg(plane: UInt8Array) -> UInt8Array:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(plane).save(stream, "jpeg", quality=_QUALITY)
    decoded: UInt8Array = np.asarray(Image.open(stream))
    return decoded
