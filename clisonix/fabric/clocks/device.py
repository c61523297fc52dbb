"""A clock from a device's own time stamps and the times at which its packets arrived."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from clisonix.errors import ClisonixError
from clisonix.fabric.clocks.clock import Clock
from clisonix.fabric.clocks.line import huber_line
from clisonix.fabric.clocks.offsets import pairs, segment_of
from clisonix.fabric.clocks.resets import split_at_resets

WIDTH = 2.0  # robust standard deviations from which a packet's delay counts less


def from_device(device_s: npt.ArrayLike, arrival_s: npt.ArrayLike, *, reset_s: float = 1.0) -> Clock:
    """A clock from all packets of a recording at once.

    Packets may come late, in bursts and out of order: the line is through delay against device time, so order
    does not matter. The mean delay of the radio is in the offset and cannot be told from it.

    Args:
        device_s: `(n,)` time stamp that the device gave each packet, in the order of arrival.
        arrival_s: `(n,)` time of arrival on the host.
        reset_s: a step of arrival minus device time by more than this, which stays, is a device that started anew.

    Returns:
        One segment between restarts of the device's clock. Stretches of fewer than 3 packets are left out.

    Raises:
        ClisonixError: fewer than 3 packets, or all of one device time.
    """
    device, arrival = pairs(device_s, arrival_s, "packets", least=3)
    segments = []
    for start, stop in split_at_resets(device, arrival - device, reset_s):
        own, offsets = device[start:stop], arrival[start:stop] - device[start:stop]
        if stop - start < 3 or np.ptp(own) == 0:
            continue
        # Offsets may be of the size of an epoch: a small number keeps what the line leaves exact.
        base = float(np.median(offsets))
        segment = segment_of(huber_line(own, offsets - base, width=WIDTH), own)
        segments.append(replace(segment, offset_s=segment.offset_s + base))
    if not segments:
        raise ClisonixError("the packets' device times do not advance, expected at least 3 different ones")
    return Clock(tuple(segments), method="device stamps")
