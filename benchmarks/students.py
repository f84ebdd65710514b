r"""Make again the weights that come with genretree under the name `student`.

    python benchmarks/students.py FOLDER [--models cnn efficientnet-b0 ast]

Fetches the music of free games from a Debian 12 mirror (apt-get, dpkg-deb; nothing is installed), 1.4 GB, 25 hours, all
of it in Debian's main section and so under free licences, which are next to the music as `copyright`. Then teaches each
family what the MusiCNN network trained on the Million Song Dataset predicts for it (`genretree pretrain`). Goes on
where it stopped.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from genretree.corpus.manifest import read_manifest
from genretree.corpus.prepare import prepare
from genretree.training.pretrain import pretrain

_PACKAGES = """
asc-music=1.3-6 berusky2-data=0.12-2 boswars-data=2.7+svn160110-5 colobot-common-sounds=0.2.0-2 drascula-music=1.0+ds4-2
endless-sky-data=0.9.8-1.2 enigma-data=1.20-dfsg.1-2.2 extremetuxracer-data=0.8.2-1 fillets-ng-data=1.0.1-1.1
freedroidrpg-data=1.0-1 freeorion-data=0.4.10.2-1 fretsonfire-songs-muldjord=2.dfsg-2.1
fretsonfire-songs-sectoid=1.dfsg-3.1 hedgewars-data=1.0.2-6 hyperrogue-music=12.0q-1 lincity-ng-data=2.9~git20150314-5
megaglest-data=3.13.0-3 openclonk-data=8.1-3 pink-pony-data=1.4.1-3.1 planetblupi-music-ogg=1.14.2-3
redeclipse-data=1.6.0-1 scorched3d-data=44+dfsg-8 singularity-music=007-2 starfighter-data=2.4-1 supertux-data=0.6.3-2
supertuxkart-data=1.4+dfsg-2 unknown-horizons=2019.1-6 warmux-data=1:11.04.1+repack2-4 warzone2100-music=4.3.3-3
wesnoth-1.16-music=1:1.16.9-1 widelands-data=2:1.1-3 xmoto-data=0.6.1+repack-9 zaz-data=1.0.1-1
"""
SUFFIXES = (".ogg", ".oga", ".mp3", ".opus", ".flac")
LEAST_BYTES = 300_000  # what is shorter is a noise of the game
SETTINGS: dict[str, dict[str, object]] = {
    "efficientnet-b0": {"epochs": 6},
    "ast": {"epochs": 8, "learning_rate": 5e-4, "weight_decay": 0.05},
}


def fetch(package: str, music: Path, keep_sound: Callable[[Path, Path], None]) -> None:
    """Download a package and let `keep_sound(content, out)` copy its music to a folder with its name, once."""
    out = music / package.partition("=")[0]
    if out.exists():
        return
    with tempfile.TemporaryDirectory(dir=music) as name:
        folder = Path(name)
        subprocess.run(["apt-get", "download", "-q", package], cwd=folder, check=True, capture_output=True)
        archive = next(folder.glob("*.deb"))
        subprocess.run(["dpkg-deb", "--extract", archive.name, "content"], cwd=folder, check=True)
        keep_sound(folder / "content", out)


def keep_longer_files(content: Path, out: Path) -> None:
    """Copy the longer audio files and the licence to `out`."""
    kept = content.parent / "kept"
    kept.mkdir()
    found = [path for path in sorted(content.rglob("*")) if path.is_file() and not path.is_symlink()]
    for number, path in enumerate(found):
        if path.name == "copyright":
            shutil.copy(path, kept / "copyright")
        elif path.suffix.lower() in SUFFIXES and path.stat().st_size > LEAST_BYTES:
            shutil.copy(path, kept / f"{number}-{path.name}")
    kept.rename(out)
    print(f"{out.name}: {len(list(out.iterdir())) - 1} files", flush=True)


def main() -> None:
    """Fetch, prepare, pretrain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=["cnn", "efficientnet-b0", "ast"])
    given = parser.parse_args()
    music = given.folder / "music"
    music.mkdir(parents=True, exist_ok=True)
    for package in _PACKAGES.split():
        fetch(package, music, keep_longer_files)
    store = prepare(read_manifest(music, group="folder", depth=1), given.folder / "store", progress=True)
    for family in given.models:
        out = given.folder / family
        if not out.exists():
            print(pretrain([store.folder], family, out, SETTINGS.get(family), progress=True))


if __name__ == "__main__":
    main()
