"""Where matrices are made for the weights of one model, and kept between one run and the next."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from clisonix.compress.building import build
from clisonix.compress.forms import Form
from clisonix.compress.moments import Moment
from clisonix.compress.survey import Site
from clisonix.compress.weighing import Weighing, weighing
from clisonix.errors import ClisonixError
from clisonix.files import save_tensors, write_atomic
from clisonix.liam.exact import Spectrum
from clisonix.liam.matrix import Matrix

# Part of every key: matrices made by another way of making them must not be taken up.
_VERSION = "clisonix.matrix/1"


class Workshop:
    """Makes matrices, one weight at a time: what one needs is let go of when the next begins.

    Args:
        sites: of the model, those that can be compressed.
        moments: by name; None: blind.
        with_loss: whether the moments hold gradients of a loss.
        folder: where finished matrices are kept and looked for, so that an interrupted run goes on; None: nowhere.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        moments: Mapping[str, Moment] | None,
        *,
        with_loss: bool = False,
        folder: Path | None = None,
    ) -> None:
        self.sites = {site.name: site for site in sites}
        self.moments, self.with_loss, self.folder = moments, with_loss, folder
        self._open: tuple[str, Tensor, Weighing] | None = None
        self._spectrum: Spectrum | None = None

    def open(self, name: str) -> tuple[Tensor, Weighing]:
        """A weight `(m, n)`, where numbers can be double, and its metric."""
        if self._open is None or self._open[0] != name:
            self.close()
            weight = self.sites[name].weight
            moment = self.moments.get(name) if self.moments is not None else None
            # "mps" has no float64, which every decomposition here uses.
            weight = weight.cpu() if weight.device.type == "mps" else weight
            weight = weight if weight.is_contiguous() else weight.contiguous()
            self._open = (name, weight, weighing(name, weight, moment, with_loss=self.with_loss))
        return self._open[1], self._open[2]

    def finish(self, name: str) -> None:
        """Let go of the moments of a weight: nothing more will be made of it."""
        self.close()
        if isinstance(self.moments, dict):
            self.moments.pop(name, None)

    def close(self) -> None:
        """Let go of what the last weight needed."""
        self._open = self._spectrum = None

    @torch.no_grad()
    def make(self, name: str, form: Form) -> Matrix:
        """A weight in a form, on the weight's device; taken from the folder if it was made before."""
        site = self.sites[name]
        key = self._key(name, form) if self.folder is not None else ""
        made = self._found(key, site, form)
        if made is None:
            weight, metric = self.open(name)
            if form.kind == "lowrank" and self._spectrum is None:
                self._spectrum = metric.decompose(weight)
            made = build(form, weight, metric, spectrum=self._spectrum, name=name)
            if self.folder is not None:
                tensors = {place: tensor.detach().cpu().contiguous() for place, tensor in made.state_dict().items()}
                write_atomic(self.folder / f"{key}.safetensors", lambda path: save_tensors(tensors, path))
        return made.to(site.tensor.device)

    @torch.no_grad()
    def error(self, name: str, matrix: Matrix) -> float:
        """What `matrix` costs in the place of its weight, in the unit of `Weighing`."""
        weight, metric = self.open(name)
        size, squares = metric.square(weight), 0.0
        if size == 0:
            return 0.0
        # A large weight is not unpacked in one piece.
        step = max(1, (1 << 20) // max(weight.shape[1], 1))
        for start in range(0, len(weight), step):
            stop = min(start + step, len(weight))
            part = matrix if len(weight) <= step else matrix[start:stop]
            wide = weight[start:stop].to(metric.metric.dtype)
            deviation = wide - part.dense().to(wide)
            rows = torch.arange(start, stop, device=weight.device)
            squares += float(metric.squares(deviation, rows).double().sum())
        return metric.total * squares / size

    def _key(self, name: str, form: Form) -> str:
        """A hash of all that a matrix depends on."""
        found = hashlib.sha256(f"{_VERSION} {json.dumps(form.to_json(), sort_keys=True)} {self.with_loss}".encode())
        moment = self.moments.get(name) if self.moments is not None else None
        tensors: list[Tensor | None] = [self.sites[name].weight]
        if moment is not None:
            tensors += [moment.matrix, moment.rows, moment.output_weights if self.with_loss else None]
            tensors += [moment.depth_weights if self.with_loss else None]
        for tensor in tensors:
            if tensor is None:
                found.update(b"none")
                continue
            found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            for block in torch.split(tensor.detach(), max(1, (1 << 20) // max(tensor[:1].numel(), 1))):
                found.update(block.contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    def _found(self, key: str, site: Site, form: Form) -> Matrix | None:
        path = None if self.folder is None else self.folder / f"{key}.safetensors"
        if path is None or not path.is_file():
            return None
        made = form.empty(site.matrix_shape, site.tensor.dtype)
        try:
            made.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError, OSError, ClisonixError) as error:
            raise ClisonixError(f"{path} is damaged ({str(error).splitlines()[0]}); delete it and go on") from error
        return made
