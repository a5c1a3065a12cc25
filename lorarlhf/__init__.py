"""Align a language model by hand on one consumer GPU.

Importing this package loads neither torch nor any model code; `lorarlhf.cli` keeps it that way.
"""

import logging

# Said when bitsandbytes is imported on some processors, about a download this program does not want.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.1.0"
