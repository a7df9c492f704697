"""A report that says, line by line, what a kernel moved and what would have been enough."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbops.targets.emulator.device import Device
    from nbops.targets.emulator.nodes import Location
    from nbops.targets.emulator.tally import Counters, Traffic

__all__ = ["report"]

SECTOR_BYTES = 32
WORTH_A_REMARK = 1.25


def report(device: Device) -> str:
    """The text of `Device.report`."""
    if not device.counters:
        return "no kernel has run yet"
    return "\n\n".join(_kernel(device.launches[name], c) for name, c in device.counters.items())


def _kernel(launches: int, counters: Counters) -> str:
    mix = counters.instructions
    total = sum(mix.values())
    shares = ", ".join(f"{op} {number / total:.0%}" for op, number in mix.most_common(6))
    lines = [
        f"kernel {counters.kernel.title}, {launches} {'launch' if launches == 1 else 'launches'}",
        f"  {total:,} warp instructions, {counters.active_share:.0%} of their lanes active: {shares}",
    ]
    for what, traffic, unit in (
        ("global loads", counters.global_loads, "sectors of 32 bytes"),
        ("global stores", counters.global_stores, "sectors of 32 bytes"),
        ("shared loads", counters.shared_loads, "wavefronts"),
        ("shared stores", counters.shared_stores, "wavefronts"),
    ):
        if traffic.requests:
            lines.append(
                f"  {what}: {traffic.moved:,} {unit}, ideal {traffic.ideal:,} ({traffic.ratio:.2f}x)"
            )
    for (location, space, store), traffic in counters.by_line().items():
        lines += _line(location, space, store, traffic)
    return "\n".join(lines)


def _line(location: Location | None, space: str, store: bool, traffic: Traffic) -> list[str]:
    verb = "writes" if store else "reads"
    each = traffic.moved / traffic.requests
    best = traffic.ideal / traffic.requests
    where = f"  {Path(location.file).name}:{location.line}" if location else "  (no line)"
    if space == "global":
        used = min(1.0, traffic.bytes / (SECTOR_BYTES * traffic.moved))
        text = (
            f"{where} {verb} global memory: {each:.1f} sectors a warp, ideal {best:.1f}, "
            f"{used:.0%} of the bytes used"
        )
        advice = (
            "uncoalesced: the 32 threads of a warp touch bytes that lie far apart, "
            "and the memory moves a whole sector for each; "
            "let neighbouring threads take neighbouring elements"
        )
    else:
        text = f"{where} {verb} shared memory: {each:.1f} wavefronts a warp, ideal {best:.1f}"
        advice = (
            "bank conflicts: threads of a warp want different words of one bank, "
            "which serves one word at a time; change the stride (pad a row by one element) or the order"
        )
    return [text, f"    {advice}"] if traffic.ratio > WORTH_A_REMARK else [text]
