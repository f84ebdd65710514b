"""How far mn04 is from the published code, on files whose outputs that code has written.

    python benchmarks/mn04_reference.py mn04_as_mAP_432.pt mn04_reference.npz SAMPLES

For each file NAME.mp3 in SAMPLES the .npz holds `NAME/mel_20s_30s`, `NAME/logits_20s_30s`, `NAME/features_20s_30s` and
`NAME/logits_every_10s`. Prints the greatest differences: of the mel spectrogram, of logits and embedding from the
published mel spectrogram, and of probabilities from the file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit

from genretree.models.pretrained.mn04 import build_mn04, read_published
from genretree.sound.decode import decode
from genretree.sound.mel_32k import MEL_32K_RATE, compute_mel_32k


def main() -> None:
    """Print a line for each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("samples", type=Path)
    given = parser.parse_args()
    network = build_mn04(read_published(given.weights))
    reference = np.load(given.reference, allow_pickle=False)
    print("| file | mel | logits | embedding | probabilities from the file |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in sorted({key.split("/")[0] for key in reference}):
        y = decode(given.samples / f"{name}.mp3", MEL_32K_RATE)
        mel = compute_mel_32k(y[20 * MEL_32K_RATE : 30 * MEL_32K_RATE])
        published = reference[f"{name}/mel_20s_30s"]
        every = reference[f"{name}/logits_every_10s"]
        with torch.inference_mode():
            exact = network(torch.from_numpy(published)[None, None])
            windows = [
                y[start : start + 10 * MEL_32K_RATE] for start in range(0, len(y) - 5 * MEL_32K_RATE, 10 * MEL_32K_RATE)
            ][: len(every)]
            found = [network(torch.from_numpy(np.ascontiguousarray(compute_mel_32k(w)))[None, None]) for w in windows]
        logits = np.concatenate([output.logits.numpy() for output in found])
        differences = [
            np.abs(mel - published).max(),
            np.abs(exact.logits[0].numpy() - reference[f"{name}/logits_20s_30s"]).max(),
            np.abs(exact.embedding[0].numpy() - reference[f"{name}/features_20s_30s"]).max(),
            np.abs(expit(logits) - expit(every)).max(),
        ]
        print(f"| {name} | " + " | ".join(f"{value:.1e}" for value in differences) + " |")


if __name__ == "__main__":
    main()
