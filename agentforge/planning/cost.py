"""Hours and dollars, as ranges: nobody knows the throughput of a run that has not started."""

from __future__ import annotations

from dataclasses import dataclass

from agentforge.recipe.hardware import Hardware

# Bytes a second, slow to fast: of a data-centre disk that is read and written in one pass, and of the Hub's downloads.
DISK_RATES = (0.3e9, 0.8e9, 2.0e9)
DOWNLOAD_RATES = (0.03e9, 0.1e9, 0.4e9)


@dataclass(frozen=True)
class Range:
    """The least, the likely and the most."""

    low: float
    mid: float
    high: float

    def __mul__(self, factor: float) -> Range:
        return Range(self.low * factor, self.mid * factor, self.high * factor)

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.mid + other.mid, self.high + other.high)


def compute_hours(flops: float, hardware: Hardware) -> Range:
    """Return the wall-clock hours of ``flops`` operations on all devices, at the hardware's share of the peak.

    Hours = FLOPs / (devices x peak x share) / 3600.
    """
    seconds = flops / (hardware.devices * hardware.peak_flops)
    return Range(*(seconds / share / 3600 for share in (hardware.mfu.high, hardware.mfu.mid, hardware.mfu.low)))


def transfer_hours(size: float, rates: tuple[float, float, float]) -> Range:
    """Return the hours that ``size`` bytes take at the given bytes a second."""
    slow, likely, fast = rates
    return Range(*(size / rate / 3600 for rate in (fast, likely, slow)))


def dollars(hours: Range, hardware: Hardware) -> Range:
    """Return the price of the whole machine for so long."""
    return hours * hardware.dollars_per_hour
