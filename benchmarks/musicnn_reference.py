"""How far MusiCNN here is from the published runtime, from the same patches and from the same sound files.

    python benchmarks/musicnn_reference.py REFERENCE.npz SAMPLES

REFERENCE.npz holds for each file NAME of the folder SAMPLES (NAME.mp3) consecutive patches from its beginning,
`NAME/mel` of shape (n, 187, 96), and what the published code says of them, `NAME/MSD_musicnn/tags` and so on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from genretree.models.pretrained.musicnn import PATCH_FRAMES, Musicnn
from genretree.models.pretrained.musicnn_weights import load_musicnn_weights
from genretree.models.pretrained.names import MUSICNN_NAMES
from genretree.sound.decode import decode
from genretree.sound.mel_16k import compress, compute_mel_16k

LAYERS = ("tags", "mean_pool", "max_pool", "penultimate")


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path)
    parser.add_argument("samples", type=Path)
    given = parser.parse_args()
    golden = np.load(given.reference)
    names = sorted({key.split("/")[0] for key in golden})
    worst: dict[tuple[str, str, str], float] = {}
    for network in MUSICNN_NAMES:
        model = Musicnn().eval()
        model.load_state_dict(load_musicnn_weights(network))
        for name in names:
            patches = golden[f"{name}/mel"]
            mel = compress(compute_mel_16k(decode(given.samples / f"{name}.mp3")))
            own = mel[: len(patches) * PATCH_FRAMES].reshape(patches.shape)
            for source, chosen in (("patches", patches), ("sound files", own)):
                with torch.inference_mode():
                    found = model(torch.from_numpy(chosen))
                for layer in LAYERS:
                    error = np.abs(getattr(found, layer).numpy() - golden[f"{name}/{network.upper()}_musicnn/{layer}"])
                    key = (network, source, layer)
                    worst[key] = max(worst.get(key, 0.0), float(error.max()))
    print("| network | from | " + " | ".join(LAYERS) + " |\n| --- | --- |" + " --- |" * len(LAYERS))
    for network in MUSICNN_NAMES:
        for source in ("patches", "sound files"):
            cells = " | ".join(f"{worst[network, source, layer]:.1e}" for layer in LAYERS)
            print(f"| {network} | {source} | {cells} |")


if __name__ == "__main__":
    main()
