"""Write the package's filters of mel and CQT, computed with librosa.

    python benchmarks/sound_filters.py [src/genretree/sound/filters.npz]

Only after a change of the spectrograms' parameters, or of librosa's filters: a test compares the file with the
installed librosa.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import librosa
import numpy as np

from genretree.arrays import Float32Array
from genretree.files import atomic_path
from genretree.settings import (
    CQT_BINS,
    MEL_16K_BANDS,
    MEL_16K_FFT,
    MEL_16K_RATE,
    N_FFT,
    N_MELS,
    SAMPLE_RATE,
)
from genretree.sound.filters import FILE, OCTAVE

SPARSITY = 0.01  # share of each filter's spectrum that librosa.cqt drops


def compute_filters() -> dict[str, Float32Array]:
    """Compute all filters; shapes as `genretree.sound.filters.read_filters` returns them."""
    kernels, scales = compute_cqt_kernels()
    arrays = {
        "mel": librosa.filters.mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=N_MELS),
        "mel_16k": librosa.filters.mel(sr=MEL_16K_RATE, n_fft=MEL_16K_FFT, n_mels=MEL_16K_BANDS),
        "cqt": kernels,
        "cqt_scales": scales,
    }
    return {name: np.ascontiguousarray(values, np.float32) for name, values in arrays.items()}


def compute_cqt_kernels() -> tuple[Float32Array, Float32Array]:
    """Return the filters of an octave in the time domain, and the scale of each bin's power.

    Each octave is computed at half the sample rate of the one above, so the same filters apply to all.
    """
    lowest = float(librosa.note_to_hz("C1"))
    top = librosa.cqt_frequencies(n_bins=CQT_BINS, fmin=lowest)[-OCTAVE:]
    # The bandwidth of every filter, which librosa derives from its neighbours, here from the ratio of the scale.
    ratio = 2 ** (2 / OCTAVE)
    bandwidth = (ratio - 1) / (ratio + 1)
    filters, lengths = librosa.filters.wavelet(freqs=top, sr=SAMPLE_RATE, pad_fft=True, alpha=bandwidth)
    width = filters.shape[1]
    spectra = np.fft.fft(filters * (lengths[:, None] / width), axis=1)[:, : width // 2 + 1]
    sparse = librosa.util.sparsify_rows(spectra, quantile=SPARSITY, dtype=np.complex64).toarray()
    inverse_dft = np.exp(-2j * np.pi * np.outer(np.arange(width // 2 + 1), np.arange(width)) / width)
    kernels = sparse @ inverse_dft
    both = np.concatenate([kernels.real, kernels.imag])
    # For each lower octave, librosa doubles the power for the halved rate and divides it by the doubled filter length.
    return both, np.tile(1 / lengths, CQT_BINS // OCTAVE)


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    package = Path(__file__).parents[1] / "src" / "genretree" / "sound"
    parser.add_argument("path", type=Path, nargs="?", default=package / FILE)
    path = parser.parse_args().path
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **compute_filters())  # type: ignore[arg-type]
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
