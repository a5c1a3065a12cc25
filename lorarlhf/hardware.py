"""What the machine can compute with: device, number format, free memory."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from lorarlhf.errors import BaseModelError, LoraRlhfError


def pick_device(wanted: str) -> torch.device:
    """Choose CUDA, XPU, MPS, CPU in this order, or the one asked for; raise if that one is missing."""
    present: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "xpu": torch.xpu.is_available,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    if wanted != "auto" and not present[wanted]():
        raise BaseModelError(
            f"device {wanted} is not available here; `lorarlhf doctor` shows what is, or choose device auto"
        )
    kind = wanted if wanted != "auto" else next(kind for kind, there in present.items() if there())
    if kind in ("cuda", "xpu"):
        # One process per card under `accelerate launch`.
        return torch.device(kind, int(os.environ.get("LOCAL_RANK", 0)) % getattr(torch, kind).device_count())
    return torch.device(kind)


def pick_dtype(wanted: str, device: torch.device) -> tuple[torch.dtype, str]:
    """Choose the format of activations and say why."""
    if wanted != "auto":
        return {"bf16": torch.bfloat16, "fp32": torch.float32}[wanted], f"asked for by --compute {wanted}"
    native, why = has_bf16(device)
    return (torch.bfloat16 if native else torch.float32), why


def has_bf16(device: torch.device) -> tuple[bool, str]:
    """Tell whether the hardware itself multiplies bf16 (emulation is slower than fp32), and why."""
    if device.type == "cuda":
        if torch.version.hip:
            return True, "AMD cards supported by ROCm compute in bf16"
        major, minor = torch.cuda.get_device_capability(device)
        return (
            major >= 8,
            f"compute capability {major}.{minor} ({'has' if major >= 8 else 'below 8.0 lacks'} bf16)",
        )
    if device.type == "xpu":
        return True, "Intel GPUs compute in bf16"
    if device.type == "mps":
        try:
            ones = torch.ones(2, 2, dtype=torch.bfloat16, device=device)
            return bool((ones @ ones).sum() == 8), "this macOS computes in bf16"
        except (RuntimeError, TypeError):
            return False, "this macOS has no bf16"
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    native = any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return native, f"this processor {'has' if native else 'lacks'} bf16 instructions"


def total_bytes(device: torch.device) -> int:
    """Return the bytes of memory `device` has, used or not; of a processor and of Apple's GPU, the machine's."""
    if device.type in ("cuda", "xpu"):
        return int(getattr(torch, device.type).get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)


def free_bytes(device: torch.device) -> int:
    """Measure the bytes a new tensor could take on `device`, counting what torch holds in reserve as free."""
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserve
    if device.type == "xpu":
        return torch.xpu.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return min(psutil.virtual_memory().available, _container_free())


def _container_free() -> int:
    """Read what a container (cgroup v2) still allows; psutil sees only the whole machine."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        cache = sum(
            int(line.split()[1])
            for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines()
            if line.startswith(("inactive_file ", "active_file "))
        )
        return 2**62 if limit == "max" else int(limit) - used + cache
    except (OSError, ValueError):
        return 2**62


def why_no_quantisation(device: torch.device) -> str:
    """Try one NF4 product on `device`; return the reason it does not work, empty if it does."""
    # Some builds complain at import about an optional download.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        from bitsandbytes import functional, matmul_4bit

        weight = torch.linspace(-1, 1, 64 * 64, device=device).reshape(64, 64)
        packed, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        row = torch.ones(1, 64, device=device)
        got = matmul_4bit(row, packed, quant_state=state)
        wanted = row @ functional.dequantize_4bit(packed, state).T
        right = torch.allclose(got, wanted, rtol=1e-2, atol=1e-2)
    except (ImportError, RuntimeError, AttributeError, NotImplementedError, OSError) as error:
        return " ".join(str(error).split())[:160] or type(error).__name__
    return "" if right else "it computes wrong numbers"


def release_memory() -> None:
    """Give memory that tensors no longer use back to the system, where the C library would keep it.

    On Linux it keeps the pieces that batches of ever new sizes leave behind: a third of the peak of a PPO run.
    """
    trim = getattr(_C_LIBRARY, "malloc_trim", None)
    if trim is not None:
        trim(0)


OUT_OF_MEMORY = (
    "out of memory",  # CUDA, ROCm, MPS, XPU
    "can't allocate memory",  # the CPU allocator on Linux and macOS
    "not enough memory",  # the same on Windows
    "cublas_status_alloc_failed",
    "hiperroroutofmemory",
    "out_of_device_memory",  # Level Zero below XPU
    "out_of_host_memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, on whatever device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if not isinstance(error, RuntimeError) or isinstance(error, LoraRlhfError):
        return False
    text = str(error).lower()
    return any(words in text for words in OUT_OF_MEMORY)


def make_room(device: torch.device) -> None:
    """Give back all memory that nobody uses, also what torch holds in reserve."""
    gc.collect()
    if device.type in ("cuda", "xpu", "mps"):
        getattr(torch, device.type).empty_cache()
    release_memory()


def keep_little_back() -> None:
    """Have the libraries below torch keep little of what is not needed again; call it before the first product.

    The C library takes large tensors straight from the system, and gives them back as soon as they are freed. Left
    alone, glibc raises that border to 32 MB as it sees larger ones freed, and then keeps the pieces between the tensors
    of a pass: 1,024 tokens through a base of 0.5B took 5.5 GB instead of 4.5, no faster.

    oneDNN writes code for every shape of a product in bf16, and it and torch's layer above it keep that of the newest
    1,024 shapes: 550 MB in a run whose passes are all of other sizes. A pass needs 20 to 60 of them.
    """
    mallopt = getattr(_C_LIBRARY, "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_TENSOR)
    for places in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(places, str(KERNELS))


KERNELS = 128
"""Shapes whose code is kept: with 1,024 a step takes as long (a test compares the plan's number)."""
M_MMAP_THRESHOLD = -3
"""Of <malloc.h>."""
LARGE_TENSOR = 2**23
"""Bytes. At 1 MiB the same pass takes 4.2 GB, but the steps of a small base half as long again."""
_C_LIBRARY = ctypes.CDLL(None) if sys.platform == "linux" else None
