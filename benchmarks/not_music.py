r"""Detection of speech, noise and sound effects among music.

    apt-get download asterisk-core-sounds-{en,es,fr,it,ru}-wav fillets-ng-data fillets-ng-data-cs \
        asterisk-moh-opsound-wav oxygen-sounds sound-theme-freedesktop wordwarvi-sound
    for file in *.deb; do dpkg -x "$file" debs/"${file%%_*}"; done
    python benchmarks/not_music.py debs [MUSIC ...]

Speech is clips of 30 s, joined from the prompts of a telephone exchange in five languages (8 kHz) and from dialogues of
a game in Czech and English, in a random order of seed 0. MUSIC are further folders or files of music.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from genretree.errors import SoundError
from genretree.models.families.tagger.content import Content, detect_content
from genretree.prediction.untrained import load_tagger
from genretree.sound.decode import decode
from genretree.sound.mel_32k import MEL_32K_RATE, compute_mel_32k
from genretree.sound.walk import SoundWalk

_WINDOW = 10 * MEL_32K_RATE
_CLIP = 30 * MEL_32K_RATE
_MAX = 60 * MEL_32K_RATE


def main() -> None:
    """Print a table, and the clips that were named wrongly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path)
    parser.add_argument("music", type=Path, nargs="*")
    given = parser.parse_args()
    random.seed(0)
    tagger = load_tagger()

    def detect(y: np.ndarray) -> Content:
        y = np.resize(y, _WINDOW) if len(y) < _WINDOW else y
        windows = [y[at : at + _WINDOW] for at in range(0, min(len(y), _MAX) - _WINDOW + 1, _WINDOW)]
        outputs = tagger.extract(np.stack([compute_mel_32k(window) for window in windows]))
        return detect_content(outputs.tags)

    groups: dict[str, Iterable[tuple[str, np.ndarray]]] = {}
    for language in ("en", "es", "fr", "it", "ru"):
        groups[f"speech, prompts ({language})"] = joined(given.packages / f"asterisk-core-sounds-{language}-wav", 30)
    groups["speech, dialogues (cs)"] = joined(given.packages / "fillets-ng-data-cs", 50)
    groups["speech, dialogues (en)"] = joined(given.packages / "fillets-ng-data", 10, "en")
    for name in ("oxygen-sounds", "sound-theme-freedesktop", "wordwarvi-sound"):
        groups[f"effects, {name}"] = whole(given.packages / name)
    groups["noise"] = noise()
    groups["music, fillets-ng"] = whole(given.packages / "fillets-ng-data", "music")
    groups["music, on hold"] = whole(given.packages / "asterisk-moh-opsound-wav")
    for folder in given.music:
        groups[f"music, {folder.name}"] = whole(folder)
    print("| clips | number | music | speech | silence | noise | sound effect |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    wrong = []
    for name, clips in groups.items():
        found = [(clip, detect(y)) for clip, y in clips]
        counts = Counter[str](content.type for _, content in found)
        types = ("music", "speech", "silence", "noise", "sound effect")
        print(f"| {name} | {len(found)} | " + " | ".join(str(counts[each]) for each in types) + " |", flush=True)
        if not name.startswith("effects"):
            wrong += [(clip, content) for clip, content in found if content.is_music != name.startswith("music")]
    for clip, content in wrong:
        print(f"{clip}: {content.type} ({content.tag} {content.probability:.2f})")


def joined(folder: Path, count: int, part: str | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Yield clips of 30 s from files in random order."""
    files = [path for path in sound_files(folder) if part is None or part in path.parts]
    random.shuffle(files)
    parts: list[np.ndarray] = []
    made = 0
    for path in files:
        try:
            parts.append(decode(path, MEL_32K_RATE))
        except SoundError:
            continue
        if sum(map(len, parts)) >= _CLIP:
            yield f"{folder.name} {made}", np.concatenate(parts)[:_CLIP]
            parts, made = [], made + 1
            if made == count:
                return


def whole(folder: Path, part: str | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Yield whole files."""
    for path in sound_files(folder):
        if part is None or part in path.parts:
            try:
                yield path.name, decode(path, MEL_32K_RATE)
            except SoundError:
                continue


def noise() -> Iterator[tuple[str, np.ndarray]]:
    """Yield 20 s each of white, pink and brown noise, hum, a sine and clicks."""
    rng = np.random.default_rng(0)
    n = 2 * _WINDOW
    time = np.arange(n) / MEL_32K_RATE
    white = rng.standard_normal(n)
    k = np.maximum(np.arange(n // 2 + 1), 1)
    coloured = {name: np.fft.irfft(np.fft.rfft(white) / k**power) for name, power in (("pink", 0.5), ("brown", 1.0))}
    yield "white", (0.1 * white).astype(np.float32)
    for name, y in coloured.items():
        yield name, (0.2 * y / np.abs(y).max()).astype(np.float32)
    hum = np.sum([np.sin(2 * np.pi * 50 * h * time) / h for h in (1, 2, 3, 5)], axis=0)
    yield "hum", np.asarray(0.1 * hum, np.float32)
    yield "sine", (0.3 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)
    yield "clicks", ((rng.random(n) < 1e-4) * 0.5).astype(np.float32)


def sound_files(folder: Path) -> list[Path]:
    """Audio files below a folder, sorted."""
    return sorted(Path(entry.name) for entry in SoundWalk().find([folder]) if not entry.error)


if __name__ == "__main__":
    main()
