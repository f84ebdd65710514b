"""Makes musicnn_tensorflow.npz: what the published code of MusiCNN says of two made-up patches, run by TensorFlow.

In an environment of its own (Python 3.11, tensorflow-cpu==2.15.1, librosa==0.10.2, numpy<2), with the wheel
musicnn==0.1.0 unpacked (not installed) into a folder WHEEL:

    python make_musicnn_tensorflow.py WHEEL musicnn_tensorflow.npz
"""

from __future__ import annotations

import sys

import numpy as np


def make_patches() -> np.ndarray:
    """A steady chord and a beat, as log-mel of shape (2, 187, 96)."""
    rng = np.random.default_rng(0)
    time, band = np.arange(187)[:, None], np.arange(96)[None, :]
    chord = 2.5 * np.exp(-(((band % 12) - 6.0) ** 2) / 4) * np.exp(-band / 60) * (0.6 + 0.4 * np.cos(time / 17))
    beat = 3.0 * np.exp(-(time % 23) / 6.0) * np.exp(-(((band - 20) / 40.0) ** 2))
    patches = np.stack([chord + 0.05 * rng.random((187, 96)), beat + 0.3 * rng.random((187, 96))])
    return patches.astype(np.float16)


def main(wheel: str, out: str) -> None:
    sys.path.insert(0, wheel)
    import tensorflow as tf
    from musicnn import models

    tf.compat.v1.disable_eager_execution()
    patches = make_patches()
    found = {"patches": patches}
    for name in ("MSD", "MTT"):
        tf.compat.v1.reset_default_graph()
        with tf.name_scope("model"):
            given = tf.compat.v1.placeholder(tf.float32, [None, 187, 96])
            training = tf.compat.v1.placeholder(tf.bool)
            layers = models.define_model(given, training, f"{name}_musicnn", 50)
            tags = tf.nn.sigmoid(layers[0])
        session = tf.compat.v1.Session()
        tf.compat.v1.train.Saver().restore(session, f"{wheel}/musicnn/{name}_musicnn/")
        wanted = {"tags": tags, "mean_pool": layers[6], "max_pool": layers[7], "penultimate": layers[8]}
        values = session.run(wanted, {given: patches.astype(np.float32), training: False})
        found |= {f"{name.lower()}/{layer}": value for layer, value in values.items()}
    np.savez_compressed(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
