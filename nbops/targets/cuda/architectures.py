"""What the multiprocessors of five architectures have, and how many warps of a kernel fit.

Limits: NVIDIA's CUDA C++ Programming Guide 13.0, table 27, "Technical Specifications per Compute Capability".
libcu++'s ``cuda/arch_traits`` says the same, but for 12.0, where it has 32 blocks and the guide 24.

Rates: up to 10.0, the guide's sections on each compute capability, which count a multiprocessor's cores for
float32 and float64, special function units (16) and schedulers (4). For 12.0, the CUDA C++ Best Practices
Guide 13.4, "Throughput of Native Arithmetic Instructions". Conversions from and to 64 bits are a row of the
same table; that row was not at hand for any later architecture than 7.x, and is from memory. No kernel's pace
is set by them.

Bandwidth: the data sheet's, per multiprocessor and clock, of one well-known GPU of each: T4, A100 (40 GB),
H100 SXM, B200, RTX 5090.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ARCHITECTURES", "Architecture", "occupancy"]

WARP, SCHEDULERS = 32, 4


@dataclass(frozen=True)
class Architecture:
    """A multiprocessor.

    Parameters
    ----------
    shared_bytes, warps, blocks : int
        What it holds at most.
    float32, float64, conversions : int
        Operations per clock; conversions are those from and to 64 bits.
    memory : float
        Bytes of global memory per clock.
    reserved_bytes : int
        Shared memory that the system takes of each block.
    """

    shared_bytes: int
    warps: int
    blocks: int
    float32: int
    float64: int
    conversions: int
    memory: float
    reserved_bytes: int = 1024
    registers: int = 65536
    special: int = 16  # exp2, log2, reciprocal
    shared_bandwidth: int = 128  # bytes per clock


ARCHITECTURES = {
    (7, 5): Architecture(64 << 10, 32, 16, 64, 2, 2, 320e9 / 40 / 1.59e9, reserved_bytes=0),
    (8, 0): Architecture(164 << 10, 64, 32, 64, 32, 16, 1555e9 / 108 / 1.41e9),
    (9, 0): Architecture(228 << 10, 64, 32, 128, 64, 16, 3350e9 / 132 / 1.98e9),
    (10, 0): Architecture(228 << 10, 64, 32, 128, 64, 16, 8000e9 / 148 / 1.965e9),
    (12, 0): Architecture(100 << 10, 48, 24, 128, 2, 2, 1792e9 / 170 / 2.407e9),
}


def occupancy(compute_capability: tuple[int, int], registers: int, shared_bytes: int, threads: int) -> float:
    """The share of a multiprocessor's warps that are there at once.

    Parameters
    ----------
    compute_capability : tuple of 2 int
    registers : int
        Of a thread.
    shared_bytes, threads : int
        Of a block.

    Examples
    --------
    >>> occupancy((9, 0), registers=32, shared_bytes=0, threads=256)
    1.0
    >>> occupancy((9, 0), registers=128, shared_bytes=0, threads=256)
    0.25
    """
    has = ARCHITECTURES[compute_capability]
    warps = -(-threads // WARP)
    per_warp = -(-max(registers, 1) * WARP // 256) * 256  # registers are handed out in steps of 256
    shared = -(-(shared_bytes + has.reserved_bytes) // 128) * 128
    blocks = min(has.registers // per_warp // warps, has.warps // warps, has.blocks)
    if shared:
        blocks = min(blocks, has.shared_bytes // shared)
    return blocks * warps / has.warps
