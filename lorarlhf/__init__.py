"""Align a language model by hand on one consumer GPU.

Importing this package loads neither torch nor any model code; `lorarlhf.cli` keeps it that way.
"""

__version__ = "0.1.0"
