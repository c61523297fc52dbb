"""Recursive filters that carry their state from one piece of a signal to the next."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from clisonix.errors import ClisonixError
from clisonix.fabric.transforms.chain import Transform

_BLOCK = 64  # samples that one product of matrices carries forward


class Iir(Transform):
    """A cascade of second-order sections, `scipy.signal.sosfilt` for batches of pieces.

    Row `i` of each batch continues row `i` of the batch before, so this is for streams cut without overlap (hop equal
    to window, in order), one in each row; `reset` begins anew. Pieces of any length give what the whole signal would
    have given. The state is a buffer: it moves with `.to(device)` and is saved with `state_dict`.

    A value that was not measured enters the recursion as the last measured one, so that it starts no transient, and
    its result is masked; a recursive filter remembers for ever, so `settle` results after it, and after the
    beginning, are masked too.

    No loop runs over samples: each section is in state-space form, and the state at the end of each block of 64
    samples is found by doubling from powers of the transition matrix (a parallel prefix; G. E. Blelloch, 1990).
    Sections compute in float64: at 0.1 Hz a pole lies closer to the unit circle than float32 tells.

    Example:
        >>> import torch
        >>> keep = iir_band_pass(256.0, 1.0, 40.0)
        >>> x = torch.randn(2, 3, 512)
        >>> first, _ = keep(x[..., :200], torch.ones(2, 3, 200, dtype=torch.bool))
        >>> second, _ = keep(x[..., 200:], torch.ones(2, 3, 312, dtype=torch.bool))
        >>> keep.reset()
        >>> whole, _ = keep(x, torch.ones_like(x, dtype=torch.bool))
        >>> torch.allclose(torch.cat([first, second], -1), whole, atol=1e-6)
        True
    """

    sections: Tensor
    state: Tensor
    held: Tensor
    since: Tensor
    step: Tensor
    absorb: Tensor
    remember: Tensor
    respond: Tensor

    def __init__(self, sections: Tensor, *, settle: int = 0) -> None:
        """Take the coefficients.

        Args:
            sections: `(sections, 6)`: b0, b1, b2, a0, a1, a2 of each.
            settle: results that are masked after the beginning and after each value that was not measured.

        Raises:
            ClisonixError: another shape, an a0 of 0, or a section that is not stable.
        """
        super().__init__()
        if sections.ndim != 2 or sections.shape[1] != 6 or not len(sections):
            raise ClisonixError(f"sections have shape {tuple(sections.shape)}, expected (sections, 6)")
        found = sections.detach().to("cpu", torch.float64)
        if not bool(torch.isfinite(found).all()) or bool((found[:, 3] == 0).any()):
            raise ClisonixError("sections hold a number that is not finite, or an a0 of 0")
        found = found / found[:, 3:4]
        a1, a2 = found[:, 4], found[:, 5]
        if bool(((a2.abs() >= 1) | (a1.abs() >= 1 + a2)).any()):
            raise ClisonixError("a section has a pole on or outside the unit circle, so its output would never end")
        if settle < 0:
            raise ClisonixError(f"settle is {settle}, expected a number of samples from 0 on")
        self.settle = settle
        self.register_buffer("sections", found)
        self.register_buffer("state", torch.zeros(0, 0, len(found), 2, dtype=torch.float64))
        self.register_buffer("held", torch.zeros(0, 0, dtype=torch.float64))
        self.register_buffer("since", torch.zeros(0, 0, dtype=torch.int64))
        made = [_matrices(row) for row in found]
        for i, name in enumerate(("step", "absorb", "remember", "respond")):
            self.register_buffer(name, torch.stack([m[i] for m in made]), persistent=False)

    def reset(self) -> None:
        """Forget everything: the next batch begins a signal."""
        self.state, self.held, self.since = (
            x.new_zeros((0, 0, *x.shape[2:])) for x in (self.state, self.held, self.since)
        )

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See `Transform`; the state goes on.

        Raises:
            ClisonixError: another number of rows or channels than the batch before.
        """
        batch, channels, samples = x.shape
        if self.state.shape[:2] != (batch, channels):
            if self.state.numel():
                raise ClisonixError(
                    f"a filter that holds the state of {tuple(self.state.shape[:2])} rows and channels was given "
                    f"{(batch, channels)}: call reset() where a new signal begins"
                )
            self.state = self.state.new_zeros(batch, channels, len(self.sections), 2)
            self.held = self.held.new_zeros(batch, channels)
            self.since = self.since.new_zeros(batch, channels)
        if not samples:
            return x, mask
        y, self.held = _hold(x.to(torch.float64), mask, self.held)
        ends = []
        for k in range(len(self.sections)):
            y, end = self._section(k, y, self.state[:, :, k])
            ends.append(end)
        self.state = torch.stack(ends, 2)
        kept, self.since = _settled(mask, self.since, self.settle)
        return torch.where(kept, y.to(x.dtype), 0.0), kept

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *more: object) -> None:
        for name in ("state", "held", "since"):
            saved = state_dict.get(prefix + name)
            mine: Tensor = getattr(self, name)
            if saved is not None and saved.shape[2:] == mine.shape[2:]:
                setattr(self, name, mine.new_zeros(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *more)

    def _section(self, k: int, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One section over `(batch, channels, time)`, and the state that it ends in."""
        samples = x.shape[-1]
        blocks = -(-samples // _BLOCK)
        padded = F.pad(x, (0, blocks * _BLOCK - samples)).reshape(*x.shape[:-1], blocks, _BLOCK)
        # What each block alone leaves behind; the state from before counts as a block of its own.
        before = torch.cat([state[..., None, :], padded[..., :-1, :] @ self.absorb[k].T], -2)
        power, apart = torch.linalg.matrix_power(self.step[k], _BLOCK), 1
        while apart < blocks:
            moved = before[..., :-apart, :] @ power.T
            before = torch.cat([before[..., :apart, :], before[..., apart:, :] + moved], -2)
            power, apart = power @ power, 2 * apart
        y = padded @ self.respond[k].T + before @ self.remember[k].T
        last = samples - (blocks - 1) * _BLOCK
        end = padded[..., -1, :last] @ self.absorb[k][:, -last:].T
        end = end + before[..., -1, :] @ torch.linalg.matrix_power(self.step[k], last).T
        return y.flatten(-2)[..., :samples], end


def iir_band_pass(
    rate_hz: float,
    low_hz: float | None,
    high_hz: float | None,
    *,
    order: int = 4,
    settle_s: float | None = None,
) -> Iir:
    """Keep what lies between two frequencies: Butterworth's filter (Butterworth 1930) below and above.

    Args:
        rate_hz: of the modality.
        low_hz: lower edge, 3 dB down; None keeps everything below `high_hz`.
        high_hz: upper edge, 3 dB down; None keeps everything above `low_hz`.
        order: of each edge, even.
        settle_s: see `Iir`; None waits until a transient has fallen to a hundredth.

    Raises:
        ClisonixError: edges that are not ordered between 0 and half the rate, or an odd order.
    """
    edges = [f for f in (low_hz, high_hz) if f is not None]
    if not edges or not all(a < b for a, b in zip([0.0, *edges], [*edges, rate_hz / 2], strict=True)):
        raise ClisonixError(f"a band from {low_hz} to {high_hz} Hz does not lie between 0 and {rate_hz / 2:g} Hz")
    if order < 2 or order % 2:
        raise ClisonixError(f"order is {order}, expected an even number from 2 on")
    rows = []
    for cut_hz, is_high in ((low_hz, True), (high_hz, False)):
        if cut_hz is None:
            continue
        k = math.tan(math.pi * cut_hz / rate_hz)
        for i in range(order // 2):
            damping = 2 * k * math.sin(math.pi * (2 * i + 1) / (2 * order))
            b = (1.0, -2.0, 1.0) if is_high else (k * k, 2 * k * k, k * k)
            rows.append([*b, 1 + damping + k * k, 2 * (k * k - 1), 1 - damping + k * k])
    return _settling(torch.tensor(rows, dtype=torch.float64), rate_hz, settle_s)


def iir_notch(rate_hz: float, line_hz: float, *, quality: float = 30.0, settle_s: float | None = None) -> Iir:
    """Take out the hum of the mains: a zero at `line_hz`, 3 dB down over `line_hz / quality` about it.

    Args:
        rate_hz: of the modality.
        line_hz: what to take out.
        quality: how narrow; a narrower notch rings longer.
        settle_s: see `Iir`; None waits until a transient has fallen to a hundredth.

    Raises:
        ClisonixError: a frequency that does not lie between 0 and half the rate, or a quality that is not positive.
    """
    if not (0 < line_hz < rate_hz / 2 and quality > 0):
        raise ClisonixError(
            f"a notch at {line_hz:g} Hz of quality {quality:g} does not lie between 0 and {rate_hz / 2:g} Hz"
        )
    middle = -2 * math.cos(2 * math.pi * line_hz / rate_hz)
    width = math.tan(math.pi * line_hz / quality / rate_hz)
    row = [1.0, middle, 1.0, 1 + width, middle, 1 - width]
    return _settling(torch.tensor([row], dtype=torch.float64), rate_hz, settle_s)


def _settling(sections: Tensor, rate_hz: float, settle_s: float | None) -> Iir:
    if settle_s is not None:
        return Iir(sections, settle=round(settle_s * rate_hz))
    slowest = max(float(torch.linalg.eigvals(_matrices(row / row[3])[0]).abs().max()) for row in sections)
    return Iir(sections, settle=math.ceil(math.log(0.01) / math.log(slowest)) if slowest > 0 else 0)


def _matrices(section: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A section in state-space form (transposed direct form 2), and what a block of samples does by it.

    Returns:
        `step` (2, 2) of the state; `absorb` (2, block), what a block adds to it; `remember` (block, 2), what it adds
        to a block; `respond` (block, block), what a block does by itself.
    """
    b0, b1, b2, _, a1, a2 = section.tolist()
    step = torch.tensor([[-a1, 1.0], [-a2, 0.0]], dtype=torch.float64)
    enter = torch.tensor([b1 - a1 * b0, b2 - a2 * b0], dtype=torch.float64)
    powers = [torch.eye(2, dtype=torch.float64)]
    for _ in range(_BLOCK - 1):
        powers.append(step @ powers[-1])
    absorb = torch.stack([p @ enter for p in reversed(powers)], 1)
    remember = torch.stack([p[0] for p in powers])
    impulse = torch.cat([torch.tensor([b0], dtype=torch.float64), torch.stack([(p @ enter)[0] for p in powers[:-1]])])
    late = torch.arange(_BLOCK)[:, None] - torch.arange(_BLOCK)
    respond = torch.where(late >= 0, impulse[late.clamp(min=0)], 0.0)
    return step, absorb, remember, respond


def _hold(x: Tensor, mask: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """Each value that was not measured becomes the last one that was; the last of all."""
    at = torch.where(mask, torch.arange(x.shape[-1], device=x.device), -1).cummax(-1).values
    y = torch.where(at >= 0, x.gather(-1, at.clamp(min=0)), held[..., None])
    return y, y[..., -1]


def _settled(mask: Tensor, since: Tensor, settle: int) -> tuple[Tensor, Tensor]:
    """Where so many values before were measured without a break; how many were at the end."""
    here = torch.arange(mask.shape[-1], device=mask.device)
    broken = torch.where(mask, torch.tensor(-1, device=mask.device), here).cummax(-1).values
    # Before the first break, what was measured in earlier pieces counts too.
    before = torch.where(broken >= 0, here - broken - 1, here + since[..., None])
    last = torch.where(mask[..., -1], before[..., -1] + 1, 0)
    return mask & (before >= settle), last
