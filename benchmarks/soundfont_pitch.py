"""Whether players of the soundfont are in tune: the pitch of A4 by program, ours and symusic's.

    pip install symusic==0.5.8
    python benchmarks/soundfont_pitch.py

The composed corpus is played by a small reader of our own because of what this shows.
"""

from __future__ import annotations

import argparse
import importlib.util
from importlib import resources

import librosa
import numpy as np
from numpy.typing import NDArray

from genretree.datasets.composed.sampler import Sampler
from genretree.datasets.composed.soundfont import FILE

SAMPLE_RATE = 44100
A4 = 69
PROGRAMS = {0: "piano", 24: "nylon guitar", 40: "violin", 42: "cello", 56: "trumpet", 68: "oboe", 73: "flute"}


def cents_off(samples: NDArray[np.float32]) -> float:
    """Cents between the pitch that YIN finds and A4 = 440 Hz."""
    middle = samples[SAMPLE_RATE // 10 : 8 * SAMPLE_RATE // 10]
    found = np.median(librosa.yin(middle.astype(np.float32), fmin=60, fmax=3000, sr=SAMPLE_RATE))
    return float(1200 * np.log2(found / 440))


def play_with_symusic(program: int) -> NDArray[np.float32]:
    """Render one second of A4."""
    import symusic

    score = symusic.Score(480).to("second")
    track = symusic.Track(path="", name=program, leaf=False, ttype="second")
    track.notes.append(symusic.Note(0.0, 1.0, A4, 100, ttype="second"))
    score.tracks.append(track)
    player = symusic.Synthesizer(sf_path=str(resources.files("pretty_midi") / FILE), sample_rate=SAMPLE_RATE, quality=4)
    return np.asarray(player.render(score, stereo=False)[0], dtype=np.float32)


def main() -> None:
    """Print a row for each instrument."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with_symusic = importlib.util.find_spec("symusic") is not None
    sampler = Sampler(SAMPLE_RATE)
    print("instrument     genretree  symusic   (cents off)")
    for program, name in PROGRAMS.items():
        theirs = f"{cents_off(play_with_symusic(program)):+8.0f}" if with_symusic else " missing"
        print(f"{name:14} {cents_off(sampler.note(program, A4, 1.0)):+9.0f} {theirs}")


if __name__ == "__main__":
    main()
