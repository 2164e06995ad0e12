"""Hours and dollars, as ranges: nobody knows the throughput of a run that has not started."""

from __future__ import annotations

from dataclasses import dataclass

from agentforge.recipe.hardware import Hardware


@dataclass(frozen=True)
class Range:
    """The least, the likely and the most."""

    low: float
    mid: float
    high: float

    def __mul__(self, factor: float | Range) -> Range:
        by = factor if isinstance(factor, Range) else Range(factor, factor, factor)
        return Range(self.low * by.low, self.mid * by.mid, self.high * by.high)

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.mid + other.mid, self.high + other.high)

    def __truediv__(self, other: Range) -> Range:
        """Divide by rates, of which the slowest is `high`."""
        return Range(self.low / other.low, self.mid / other.mid, self.high / other.high)


def compute_hours(flops: float, hardware: Hardware) -> Range:
    """Return the wall-clock hours of ``flops`` operations on all devices, at the hardware's share of the peak.

    Hours = FLOPs / (devices x peak x share) / 3600.
    """
    return seconds_of(flops, hardware) * (1 / hardware.devices / 3600)


def seconds_of(flops: float, hardware: Hardware) -> Range:
    """Return the seconds of ``flops`` operations on one device."""
    seconds = flops / hardware.peak_flops
    return Range(*(seconds / share for share in (hardware.mfu.high, hardware.mfu.mid, hardware.mfu.low)))


def transfer_hours(size: float, seconds_a_gb: Range) -> Range:
    """Return the hours that ``size`` bytes take."""
    return seconds_a_gb * (size / 1e9 / 3600)


def dollars(hours: Range, hardware: Hardware) -> Range:
    """Return the price of the whole machine for so long."""
    return hours * hardware.dollars_per_hour
