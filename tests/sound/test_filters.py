"""The package's filters are librosa's."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import librosa
import numpy as np
import pytest

from genretree.settings import SAMPLE_RATE
from genretree.sound.fast import pitch_tuning
from genretree.sound.filters import chroma_filters, read_filters
from genretree.sound.mel_scale import hz_to_mel, mel_frequencies, mel_to_hz


def test_filters_equal_librosa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    expected = importlib.import_module("sound_filters").compute_filters()
    filters = read_filters()
    assert filters.keys() == expected.keys()
    for name, values in filters.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-9, err_msg=name)
    np.testing.assert_array_equal(filters["mel"], librosa.filters.mel(sr=SAMPLE_RATE, n_fft=2048, n_mels=128))
    np.testing.assert_array_equal(filters["mel_16k"], librosa.filters.mel(sr=16000, n_fft=512, n_mels=96))


@pytest.mark.parametrize("tuning", [-0.5, -0.13, 0.0, 0.07, 0.123456, 0.49])
def test_chroma_filters_equal_librosa(tuning: float) -> None:
    expected = librosa.filters.chroma(sr=SAMPLE_RATE, n_fft=2048, tuning=tuning)
    np.testing.assert_allclose(chroma_filters(tuning), expected, atol=1e-6)


def test_pitch_tuning_equals_librosa() -> None:
    rng = np.random.default_rng(0)
    for shift in rng.uniform(-0.5, 0.5, 20):
        notes = rng.integers(40, 90, 500) + shift + rng.normal(0, 0.05, 500)
        pitches = (440 * 2 ** ((notes - 69) / 12)).astype(np.float32)
        assert pitch_tuning(pitches) == pytest.approx(librosa.pitch_tuning(pitches), abs=1e-9)


def test_the_mel_scale_equals_librosa() -> None:
    hertz = np.array([0.0, 50.0, 999.0, 1000.0, 1001.0, 4000.0, 11025.0])
    np.testing.assert_allclose(hz_to_mel(hertz), librosa.hz_to_mel(hertz), rtol=1e-12)
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(hertz)), hertz, rtol=1e-12)
    mels = np.linspace(0.0, 60.0, 50)
    np.testing.assert_allclose(mel_to_hz(mels), librosa.mel_to_hz(mels), rtol=1e-12)
    for n, fmax in ((130, SAMPLE_RATE / 2), (98, 8000.0)):
        np.testing.assert_allclose(mel_frequencies(n, fmax), librosa.mel_frequencies(n, fmax=fmax), rtol=1e-12)


def test_commands_start_without_librosa() -> None:
    """Importing it takes two seconds."""
    code = (
        "import sys, numpy as np\n"
        "from genretree.explanation.coordinates import frequency_axis\n"
        "from genretree.audit.cues import mel_hertz\n"
        "from genretree.sound.spectra import compute_spectra\n"
        "compute_spectra(np.random.default_rng(0).standard_normal(60000).astype('float32'))\n"
        "[frequency_axis(view) for view in ('mel', 'cqt', 'chroma', 'mel_16k')], mel_hertz(28)\n"
        "sys.exit('librosa' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
