"""Whether audio is music: speech, silence, noise and sound effects by the tags of mn04."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from genretree.arrays import Float32Array, Float64Array, Int64Array
from genretree.vocabulary import tag_names

ContentType = Literal["music", "speech", "silence", "noise", "sound effect"]

# Chosen on speech, effects and noise from Debian packages and on music by benchmarks/not_music.py, and rounded.
MIN_MUSIC = 0.3
MAX_SPEECH_EXCESS = 0.1
_SINGING = (
    "Singing", "Choir", "Yodeling", "Chant", "Mantra", "Male singing", "Female singing", "Child singing",
    "Synthetic singing", "Rapping", "Humming", "Beatboxing", "Hip hop music", "Opera", "Vocal music", "A capella",
)  # fmt: skip
_SPEECH = slice(0, 27)  # Speech ... Sigh
_MUSIC = slice(137, 283)  # Music ... Scary music
_VOCAL = slice(27, 38)  # Singing ... Humming
_NOISE = ("Noise", "Environmental noise", "Static", "Mains hum", "White noise", "Pink noise", "Hum", "Sine wave")
_SCENES = ("Inside, small room", "Inside, large room or hall", "Inside, public space", "Outside, urban or manmade",
           "Outside, rural or natural", "Reverberation", "Echo", "Television", "Radio", "Field recording")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Content:
    """What audio contains.

    Parameters
    ----------
    type : {"music", "speech", "silence", "noise", "sound effect"}
    tag : str
        The AudioSet label with the highest probability among those of the type.
    probability : float
        Probability of that tag, in [0, 1].
    """

    type: ContentType
    tag: str
    probability: float

    @property
    def is_music(self) -> bool:
        """Whether it is music."""
        return self.type == "music"

    def to_json(self) -> dict[str, str | float]:
        """Return type, tag and probability."""
        return {"type": self.type, "tag": self.tag, "probability": round(self.probability, 6)}


def music_evidence(tags: Float32Array) -> Float64Array:
    """Compute the probability that audio has music or any kind of singing or rapping, from tags, (n, 527): (n,)."""
    singing = tags[:, _group(_SINGING)].max(axis=1)
    evidence: Float64Array = 1 - (1 - tags[:, tag_names("mn04").index("Music")]) * (1 - singing.astype(np.float64))
    return evidence


def detect_content(tags: Float32Array) -> Content:
    """Decide what audio contains.

    It is music unless the evidence for music, averaged over the slices, is below `MIN_MUSIC`, or speech exceeds it by
    more than `MAX_SPEECH_EXCESS`, as in a podcast with music in the background.

    Parameters
    ----------
    tags : array, shape (n_slices, 527)
        Tag probabilities of mn04.

    Examples
    --------
    >>> import numpy as np
    >>> tags = np.zeros((2, 527), np.float32)
    >>> tags[:, 0] = 0.8
    >>> detect_content(tags)
    Content(type='speech', tag='Speech', probability=0.800000011920929)
    """
    names = tag_names("mn04")
    mean = tags.mean(axis=0)
    music = float(music_evidence(tags).mean())
    speech = float(mean[0])
    if music >= MIN_MUSIC and speech <= music + MAX_SPEECH_EXCESS:
        best = _best(mean, np.r_[_MUSIC, _VOCAL])
        return Content(type="music", tag=names[best], probability=float(mean[best]))
    groups: dict[ContentType, Int64Array] = {
        "speech": np.arange(527)[_SPEECH],
        "silence": _group(("Silence",)),
        "noise": _group(_NOISE),
    }
    taken = np.concatenate([*groups.values(), np.r_[_MUSIC, _VOCAL], _group(_SCENES)])
    groups["sound effect"] = np.setdiff1d(np.arange(527), taken)
    best = _best(mean, np.concatenate(list(groups.values())))
    content_type = next(name for name, group in groups.items() if best in group)
    return Content(type=content_type, tag=names[best], probability=float(mean[best]))


def _best(mean: Float32Array, group: Int64Array) -> int:
    return int(group[np.argmax(mean[group])])


@lru_cache(maxsize=8)
def _group(names: tuple[str, ...]) -> Int64Array:
    known = tag_names("mn04")
    return np.array([known.index(name) for name in names], np.int64)
