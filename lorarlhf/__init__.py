"""Align a language model by hand on one consumer GPU.

Importing this package loads neither torch nor any model code; `lorarlhf.cli` keeps it that way.
"""

import logging
import os

# Two OpenMP threads that wait for each other by spinning for long make everything ten times slower as soon as another
# program wants a core (0.3 s → 3.4 s a step of the starter base on two cores); after 10,000 spins they sleep (1.1 s).
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# oneDNN keeps compiled products for up to 1,024 shapes; batches of text are of ever new shapes, and the cache grows by
# 15 MB a PPO step for nothing (same speed with 128).
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")

# Said when bitsandbytes is imported on some processors, about a download this program does not want.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.1.0"
