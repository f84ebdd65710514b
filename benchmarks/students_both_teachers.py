r"""Distil MusiCNN and mn04 into the image networks, on augmented free music.

    python benchmarks/students_both_teachers.py FOLDER [--models cnn efficientnet-b0 ast] [--variants 4] [--report]
        [--offline]

The weights that come with genretree were made by `benchmarks/students.py`, from MusiCNN alone. This fetches more music
and has two teachers: the music of games and other programs from a Debian 12 mirror (apt-get, dpkg-deb; nothing is
installed), all of it in Debian's main section and so under free licences, which are saved next to the music as
`copyright`. Cuts a minute out of every file (ffmpeg), makes augmented versions, and distils MusiCNN (MSD) and mn04 into
each family, as `genretree pretrain` does. Needs the weights of both (`genretree weights get musicnn`, `genretree
weights get mn04`). Resumes where it stopped. With `--offline` the excerpts come from FOLDER/excerpts, for a machine
with a GPU and without a network: 150 MB.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from students import fetch

from genretree.errors import SoundError
from genretree.sound.decode import probe
from genretree.training.pretrain import prepare_music, pretrain

DEBIAN = """
alienblaster-data=1.1.0-11 amoebax-data=0.2.1+dfsg-6 ardentryst=1.71-9 asc-music=1.3-6
asterisk-moh-opsound-wav=2.03-1.1 berusky2-data=0.12-2 boswars-data=2.7+svn160110-5 btanks-data=0.9.8083-9
bumprace-data=1.5.8-1 colobot-common-sounds=0.2.0-2 cube2-data=1.3-1 davegnukem-data=1.0.3-4 drascula-music=1.0+ds4-2
endless-sky-data=0.9.8-1.2 enigma-data=1.20-dfsg.1-2.2 extremetuxracer-data=0.8.2-1 fillets-ng-data=1.0.1-1.1
fillets-ng-data-cs=1.0.1-1.1 foobillardplus-data=3.43~svn170+dfsg-7 freeciv-data=3.0.6-1+deb12u1
freedink-data=1.08.20190120-2 freedroidrpg-data=1.0-1 freeorion-data=0.4.10.2-1 fretsonfire-songs-muldjord=2.dfsg-2.1
fretsonfire-songs-sectoid=1.dfsg-3.1 frozen-bubble-data=2.212-11 gamine-data=1.6-1 gigalomania-data=1.0+ds1-1.1
glob2-data=0.9.4.4-6 hannah-data=1.0-3.3 hedgewars-data=1.0.2-6 hex-a-hop-data=1.1.0+git20140926-1.1
holotz-castle-data=1.3.14-12 hyperrogue-music=12.0q-1 instead-data=3.3.2-1.1 krank=0.7+dfsg2-4
lincity-ng-data=2.9~git20150314-5 lomiri-sounds=22.02-1 lordsawar-data=0.3.2+frogknows-1 lugaru-data=1.2-6
marsshooter-data=0.7.6-7 mazeofgalious-data=0.62.dfsg2-4.1 megaglest-data=3.13.0-3 naev-data=0.8.2-1
nexuiz-music=2.5.2-12 noiz2sa-data=0.51a-13 openarena-088-data=0.8.8-12 openclonk-data=8.1-3
pangzero=1.4.1+git20121103-6 pathological=1.1.3-17 pax-britannica-data=1.0.0-5 performous=1.1+git20181118-6
pink-pony-data=1.4.1-3.1 planetblupi-music-ogg=1.14.2-3 plee-the-bear-data=0.6.0-8 powermanga-data=0.93.1-5
pushover-data=0.0.5+git20180909-4 raincat-data=1.1.1.2-4 redeclipse-data=1.6.0-1 renpy-demo=8.0.3+dfsg-1
renpy-thequestion=8.0.3+dfsg-1 scorched3d-data=44+dfsg-8 searchandrescue-data=1.3.0-1.1 singularity-music=007-2
solarwolf=1.5+dfsg1-6 starfighter-data=2.4-1 supertux-data=0.6.3-2 supertuxkart-data=1.4+dfsg-2
trackballs-data=1.3.4-1 tuxfootball=0.3.1-7 tuxmath-data=2.0.3-9 tuxtype-data=1.8.3-5.1 ufoai-music=2.5-2
unknown-horizons=2019.1-6 warmux-data=1:11.04.1+repack2-4 warzone2100-music=4.3.3-3 wesnoth-1.16-music=1:1.16.9-1
widelands-data=2:1.1-3 wizznic-data=0.9.9+dfsg-1 xmoto-data=0.6.1+repack-9 zaz-data=1.0.1-1
"""
SUFFIXES = (".ogg", ".oga", ".mp3", ".opus", ".flac", ".wav", ".xm", ".mod", ".it", ".s3m")
ARCHIVES = (".pk3",)  # zip archives of some engines
MIN_BYTES = 100_000  # shorter files are sound effects
MIN_SECONDS = 20.0
EXCERPT_SECONDS = 59.0  # five slices
BIT_RATE = "24k"
COMMON: dict[str, object] = {"teacher": "both", "batch_size": 128, "ema_decay": 0.998, "patience": 15}
SETTINGS: dict[str, dict[str, object]] = {
    "cnn": {"epochs": 50, "learning_rate": 2e-3},
    "efficientnet-b0": {"epochs": 36, "learning_rate": 2e-3},
    "ast": {"epochs": 36, "learning_rate": 5e-4, "weight_decay": 0.05},
}


def keep_sound(content: Path, out: Path) -> None:
    """Copy the longer audio files and the licence to `out`."""
    for path in [path for path in content.rglob("*") if path.suffix.lower() in ARCHIVES and path.is_file()]:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(path.with_suffix(".content"))
    kept = content.parent / "kept"
    kept.mkdir()
    found = [path for path in sorted(content.rglob("*")) if path.is_file() and not path.is_symlink()]
    for number, path in enumerate(found):
        if path.name == "copyright":
            with (kept / "copyright").open("ab") as stream:  # some packages have one for each part, too
                stream.write(path.read_bytes())
        elif path.suffix.lower() in SUFFIXES and path.stat().st_size > MIN_BYTES:
            shutil.copy(path, kept / f"{number}-{path.name}")
    kept.rename(out)
    print(f"{out.name}: {len(list(out.iterdir()))} files", flush=True)


def cut_excerpt(path: Path, out: Path) -> None:
    """Write an excerpt of an audio file as mono Opus: from a quarter of its length, or all of a shorter one."""
    if out.exists():
        return
    try:
        seconds = probe(path).duration
    except SoundError:
        return
    if seconds < MIN_SECONDS:
        return
    start = 0.0 if seconds < EXCERPT_SECONDS + 13 else min(seconds / 4, seconds - EXCERPT_SECONDS - 2)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_suffix(".part")
    command = ["ffmpeg", "-v", "error", "-y", "-nostdin", "-ss", f"{start:.2f}", "-t", f"{EXCERPT_SECONDS}"]
    command += ["-i", str(path), "-vn", "-map_metadata", "-1", "-ac", "1", "-c:a", "libopus", "-b:a", BIT_RATE]
    command += ["-compression_level", "2", "-cutoff", "12000", "-f", "ogg", str(temporary)]
    if subprocess.run(command, check=False).returncode == 0:
        temporary.rename(out)


def fetch_excerpts(music: Path, excerpts: Path) -> None:
    """Fetch all packages, and cut an excerpt out of every file."""
    music.mkdir(parents=True, exist_ok=True)
    for package in DEBIAN.split():
        fetch(package, music, keep_sound)
    files = [path for path in sorted(music.glob("*/*")) if path.suffix.lower() in SUFFIXES]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda path: cut_excerpt(path, excerpts / path.parent.name / f"{path.stem}.opus"), files))


def explained_variance(store_folder: Path, family: str, weights: str) -> list[float]:
    """Measure what a ridge regression on a student's features explains of the teachers' outputs on held-out tracks.

    Returns
    -------
    list of float
        Shares of the variance of MusiCNN's tags and penultimate layer, and of mn04's tags and embedding.
    """
    import torch

    from genretree.corpus.store import Store
    from genretree.models import get_family
    from genretree.models.families import ast, cnn, efficientnet
    from genretree.models.neural.distillation import compute_teacher_targets
    from genretree.models.neural.linear_probe import compute_features
    from genretree.taxonomy import Taxonomy
    from genretree.training.data import slice_dataset_of

    store = Store(store_folder)
    parts = store.split("pretraining")
    train, held_out = (slice_dataset_of(store, store.rows(part, parts)) for part in ("train", "validation"))
    targets, truth = compute_teacher_targets([train, held_out], ("msd",), teacher="both")
    picked = np.sort(np.random.default_rng(0).permutation(len(train))[:8000])
    builders = {
        "cnn": cnn.build_initial_network,
        "efficientnet-b0": efficientnet.build_network,
        "ast": ast.build_network,
    }
    choices = {"weights": weights, "image_size": 112, "epochs": 0, "classifier": "linear"}
    settings = get_family(family).settings_type.build({**choices, "modalities": ["mel", "cqt", "chroma"]})
    tree = Taxonomy.from_paths([("music",), ("other",)])
    network = builders[family](tree, settings).eval()  # type: ignore[operator]
    with torch.inference_mode():
        x, x_held_out = compute_features(network, train.select(picked)), compute_features(network, held_out)
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-6
    x, x_held_out, y = (x - mean) / spread, (x_held_out - mean) / spread, targets[picked]
    fitted = [
        _score_ridge(x, y, x_held_out, truth, strength) for strength in (30, 300, 3000)
    ]  # the choice matters little
    return max(fitted, key=sum)


def _score_ridge(
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    x_held_out: NDArray[np.float32],
    truth: NDArray[np.float32],
    strength: float,
) -> list[float]:
    centre = y.mean(axis=0)
    weights = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ (y - centre))
    errors = np.square(x_held_out @ weights + centre - truth)
    spread = np.square(truth - centre)
    blocks = (slice(0, 50), slice(50, 250), slice(250, 434), slice(434, None))
    return [float(1 - errors[:, block].mean() / spread[:, block].mean()) for block in blocks]


def main() -> None:
    """Fetch, prepare, pretrain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=["cnn", "efficientnet-b0", "ast"])
    parser.add_argument("--variants", type=int, default=4, help="augmented versions of every file")
    parser.add_argument("--report", action="store_true", help="measure what these and the shipped weights explain")
    parser.add_argument("--offline", action="store_true", help="use FOLDER/excerpts as it is")
    given = parser.parse_args()
    excerpts = given.folder / "excerpts"
    if not given.offline:
        fetch_excerpts(given.folder / "music", excerpts)
    store = prepare_music([excerpts], given.folder / "store", teacher="both", variants=given.variants, progress=True)
    for family in given.models:
        out = given.folder / family
        if not out.exists():
            settings = {**COMMON, **SETTINGS.get(family, {})}
            print(pretrain([store.folder], family, out, settings, split="pretraining", progress=True))
        if given.report:
            for weights in ("student", str(out)):
                print(family, weights, [f"{share:.3f}" for share in explained_variance(store.folder, family, weights)])


if __name__ == "__main__":
    main()
