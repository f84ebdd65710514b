"""Hierarchical music genre classification: predicts a path such as `Rock > Soft rock` for any audio file.

>>> import genretree
>>> model = genretree.load("BUNDLE")  # a folder, or user/name on the Hugging Face Hub  # doctest: +SKIP
>>> model.predict("song.mp3").path  # doctest: +SKIP
('Non_classic', 'Rock', 'Soft_rock')
"""

from importlib.metadata import version

import lazy_loader

# What `__init__.pyi` lists is imported when it is first used: the learning libraries take seconds to load.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = version("genretree")
