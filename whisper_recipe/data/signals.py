"""Measurements of audio samples: silence, clipping and so on, for each channel and for their mix."""

from __future__ import annotations

import numpy as np

SILENT_PEAK = 1e-4  # of full scale: three steps of 16 bits
FULL_SCALE = 0.999
CLIPPED_SHARE = 0.001  # of the samples
DC_OFFSET = 0.05  # of full scale
INTEGER_SCALE = 10.0  # larger floating-point samples are integers that were never scaled
CANCELLED = 0.01  # a mix with less than this share of the power of its loudest channel has lost the speech


class Signals:
    """Measurements of the channels of audio, followed by their mix, a block at a time.

    Args:
        channels: number of channels.

    Attributes:
        num_samples: of one channel.
        low, high: the extreme samples, 1 is full scale; arrays (channels + 1,), like those below.
        total, power: sums of the samples and of their squares.
        clipped: number of samples at full scale.
        finite: whether all samples are numbers.
    """

    def __init__(self, channels: int) -> None:
        self.num_samples, self.channels = 0, channels
        self.low, self.high = np.full(channels + 1, np.inf), np.full(channels + 1, -np.inf)
        self.total, self.power, self.clipped = np.zeros((3, channels + 1))
        self.finite = np.ones(channels + 1, dtype=bool)

    def add(self, block: np.ndarray) -> None:
        """Add samples, float32 (n, channels)."""
        signals = np.empty((self.channels + 1, len(block)))  # contiguous rows are reduced 20 times as fast
        signals[:-1] = block.T
        signals[:-1].mean(axis=0, out=signals[-1])
        self.num_samples += len(block)
        self.finite &= np.isfinite(signals).all(axis=1)
        self.low, self.high = np.minimum(self.low, signals.min(axis=1)), np.maximum(self.high, signals.max(axis=1))
        self.total += signals.sum(axis=1)
        self.power += np.square(signals).sum(axis=1)
        self.clipped += (np.abs(signals) >= FULL_SCALE).sum(axis=1)

    @property
    def loudest(self) -> int:
        """The channel with the most power, without its DC offset."""
        power = self.power[:-1] - np.square(self.total[:-1]) / max(1, self.num_samples)
        return int(np.argmax(np.nan_to_num(power, nan=-1.0)))

    @property
    def cancelled(self) -> bool:
        """Whether the channels are opposite in phase, so that their mix has lost the speech."""
        return bool(self.power[-1] < CANCELLED * self.power[self.loudest])

    def is_silent(self, row: int) -> bool:
        """Whether a channel or the mix has no sound, DC offset aside."""
        return bool(self.finite[row] and (self.high[row] - self.low[row]) / 2 < SILENT_PEAK)

    def faults(self, row: int) -> list[tuple[str, str]]:
        """Return (kind, what) of everything that makes a channel or the mix unusable."""
        if not self.finite[row]:
            return [("not a number", "it has samples that are NaN or infinite")]
        peak = max(self.high[row], -self.low[row])
        if peak > INTEGER_SCALE:
            return [("not in full scale", f"floating-point samples up to {peak:.0f}, but full scale is 1")]
        return []

    def remarks(self, row: int) -> list[tuple[str, str]]:
        """Return (kind, what) of everything that is unusual about a channel or the mix, but may be intended."""
        found, count = [], max(1, self.num_samples)
        if self.faults(row):
            return found
        if (share := self.clipped[row] / count) > CLIPPED_SHARE:
            found.append(("clipping", f"{share:.1%} of its samples are at full scale"))
        if abs(mean := self.total[row] / count) > DC_OFFSET:
            found.append(("DC offset", f"its samples are {mean:+.2f} on average"))
        if self.cancelled:
            found.append(("opposite phase", "its channels cancel each other when mixed"))
        return found
