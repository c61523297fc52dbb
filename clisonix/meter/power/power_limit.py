"""Power limits of GPUs: read, set, and put back whatever happens.

NVML: `nvmlDeviceSetPowerManagementLimit`, which needs the rights of an administrator. A limit stays when the program
that set it has gone, until the driver is loaded anew.
"""

from __future__ import annotations

import os
import platform
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from clisonix.errors import ClisonixError
from clisonix.files import cannot_write, read_json, write_json
from clisonix.meter.power.interrupts import Interrupts
from clisonix.meter.sensors.nvml import detect_nvml, open_nvml
from clisonix.meter.sensors.nvml_counter import NvmlEnergy, text
from clisonix.meter.sensors.sensor import Unavailable

T = TypeVar("T")
TRIES = 3
BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Board:
    """The power limit of one GPU.

    Attributes:
        device: its name, e.g. `gpu:0`.
        uuid: of the GPU.
        low_w: the lowest limit that the board allows, in watts.
        high_w: the highest.
        default_w: what it has when the driver is loaded; None where the driver does not say.
        counter: its energy counter.
    """

    device: str
    uuid: str
    low_w: float
    high_w: float
    default_w: float | None
    counter: NvmlEnergy

    def milliwatts(self) -> int:
        """The limit now, in milliwatts; ClisonixError where the driver does not say."""
        nvml = self.counter._nvml
        try:
            return int(nvml.nvmlDeviceGetPowerManagementLimit(self.counter._handle))
        except nvml.NVMLError as error:
            raise ClisonixError(f"{self.device} does not say its power limit: {error}") from error

    def set(self, milliwatts: int) -> None:
        """Set the limit, and see that it is set.

        Raises:
            ClisonixError: it may not or cannot be set, or the driver keeps another.
        """
        _set(self.counter._nvml, self.counter._handle, self.device, milliwatts)


def power_boards(visible: str | None = None, nvml: Any = None) -> list[Board]:  # noqa: ANN401 - a module
    """The GPUs whose power limit this process may set.

    Args:
        visible: the text of `CUDA_VISIBLE_DEVICES`; None means all GPUs.
        nvml: a module like `pynvml`; None imports it.

    Raises:
        ClisonixError: there is no GPU, one cannot be measured, or its limit may not be set.
    """
    counters, missing = detect_nvml(visible, nvml)
    if not counters or missing:
        why = "; ".join(f"{m.device or m.sensor}: {m.reason}" for m in missing)
        what = "not every visible GPU can be measured" if counters else "no GPU can be measured here"
        raise ClisonixError(f"power limits cannot be compared: {what} ({why})")
    boards = [_board(counter) for counter in counters]
    for board in boards:
        # The limit it has already: tells whether limits may be set, and changes nothing.
        board.set(board.milliwatts())
    return boards


def with_limits_kept(boards: Sequence[Board], body: Callable[[], T], state: Path | None = None) -> T:
    """Run `body`, which may change power limits, and put them back at its end.

    They are put back after success, after an exception, and after SIGINT, SIGTERM, SIGHUP and SIGQUIT, which end
    `body` by a `KeyboardInterrupt` and then do what they would have done. SIGKILL and a crash of the machine's Python
    cannot be caught: so the limits are written to `state` first, and `restore_limits` reads them from there.

    Args:
        boards: whose limits.
        body: what to run.
        state: where the limits are noted; None takes `state_file()`.

    Raises:
        ClisonixError: this is not the main thread, the note of another run is there already, or a limit could not be
            put back.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ClisonixError("change power limits from the main thread: only there can a signal be caught meanwhile")
    path = state or state_file()
    before = [(board, board.milliwatts()) for board in boards]
    with Interrupts() as interrupts:
        # Outside: who finds the note of another sweep must not put anything back.
        _note(path, before)
        try:
            try:
                interrupts.may_raise()
                found = body()
                interrupts.check()
                return found
            finally:
                interrupts.hold()
        finally:
            # A signal that comes from now on waits until this is done; a forked child is not the one to do it.
            if interrupts.own:
                _put_back(path, before)


def restore_limits(state: Path | None = None, nvml: Any = None) -> dict[str, float]:  # noqa: ANN401 - a module
    """Put back the limits that a killed sweep left behind.

    Args:
        state: where they were noted; None takes `state_file()`.
        nvml: a module like `pynvml`; None imports it.

    Returns:
        watts by UUID; empty where nothing was left behind.

    Raises:
        ClisonixError: the sweep still runs, or a limit cannot be set.
    """
    path = state or state_file()
    if not path.exists():
        return {}
    note = _read_note(path)
    if note["boot"] == _boot():
        if _runs(note):
            raise ClisonixError(f"the sweep still runs as process {note['process']}: it puts the limits back itself")
        nvml = open_nvml() if nvml is None else nvml
        if isinstance(nvml, Unavailable):
            raise ClisonixError(f"the limits cannot be put back: {nvml.reason}")
        try:
            nvml.nvmlInit()
            for uuid, milliwatts in note["milliwatts"].items():
                _set(nvml, _handle(nvml, uuid), uuid, milliwatts)
        except nvml.NVMLError as error:
            raise ClisonixError(f"the limits cannot be put back: {error}") from error
    path.unlink(missing_ok=True)
    # Before this boot: loading the driver has put them back.
    return {u: mw / 1000.0 for u, mw in note["milliwatts"].items()} if note["boot"] == _boot() else {}


def state_file() -> Path:
    """Where limits are noted unless told otherwise: in the home folder, by the machine's name."""
    return Path.home() / ".local/state/clisonix" / f"power-limits-{platform.node() or 'here'}.json"


def _board(counter: NvmlEnergy) -> Board:
    nvml, handle = counter._nvml, counter._handle
    try:
        low, high = nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
    except nvml.NVMLError as error:
        raise ClisonixError(f"{counter.device} does not say which power limits it allows: {error}") from error
    try:
        default_w = nvml.nvmlDeviceGetPowerManagementDefaultLimit(handle) / 1000.0
    except nvml.NVMLError:
        default_w = None
    uuid = str(counter.parameters["uuid"])
    return Board(counter.device, uuid, low / 1000.0, high / 1000.0, default_w, counter)


def _set(nvml: Any, handle: Any, name: str, milliwatts: int) -> None:  # noqa: ANN401
    watts = f"{milliwatts / 1000:g} W"
    try:
        nvml.nvmlDeviceSetPowerManagementLimit(handle, milliwatts)
        kept = int(nvml.nvmlDeviceGetPowerManagementLimit(handle))
    except nvml.NVMLError as error:
        if getattr(error, "value", None) == getattr(nvml, "NVML_ERROR_NO_PERMISSION", 4):
            raise ClisonixError(
                f"the power limit of {name} may not be set here ({error}): run as root, and not in a container "
                "without that right"
            ) from error
        raise ClisonixError(f"the power limit of {name} cannot be set to {watts}: {error}") from error
    # The driver may round to what the board can do.
    if abs(kept - milliwatts) > 1000:
        raise ClisonixError(f"the power limit of {name} was set to {watts}, but the driver keeps {kept / 1000:g} W")


def _put_back(path: Path, before: list[tuple[Board, int]]) -> None:
    failures: list[str] = []
    for board, milliwatts in before:
        for attempt in range(TRIES):
            try:
                board.set(milliwatts)
                break
            except ClisonixError as error:
                if attempt == TRIES - 1:
                    failures.append(str(error))
    if failures:
        raise ClisonixError(f"{'; '.join(failures)}; try `clisonix sweep restore`, which reads {path}")
    path.unlink(missing_ok=True)


def _note(path: Path, before: list[tuple[Board, int]]) -> None:
    """Write the limits to a file that must not be there: two sweeps at once would keep each other's limits."""
    content = {
        "process": os.getpid(),
        "started": _started(os.getpid()),
        "boot": _boot(),
        "milliwatts": {board.uuid: milliwatts for board, milliwatts in before},
    }
    if path.exists() and _read_note(path)["boot"] != _boot():
        path.unlink(missing_ok=True)
    draft = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        write_json(draft, content)
        os.link(draft, path)
    except FileExistsError as error:
        note = _read_note(path)
        what = (
            f"another sweep runs as process {note['process']}: wait for it"
            if _runs(note)
            else "a sweep was killed and left its limits behind: run `clisonix sweep restore` first"
        )
        raise ClisonixError(f"{what} ({path})") from error
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        draft.unlink(missing_ok=True)


def _read_note(path: Path) -> dict[str, Any]:
    note = read_json(path)
    if not isinstance(note, dict) or not {"process", "started", "boot", "milliwatts"} <= set(note):
        raise ClisonixError(f"{path} is no note of power limits: look at `nvidia-smi -q -d POWER`, and delete it")
    return note


def _handle(nvml: Any, uuid: str) -> Any:  # noqa: ANN401
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        if text(nvml.nvmlDeviceGetUUID(handle)) == uuid:
            return handle
    raise ClisonixError(f"the GPU {uuid} is not here any more, so its power limit cannot be put back")


def _runs(note: dict[str, Any]) -> bool:
    # A number can be given to another process later, which started at another time.
    return note["started"] is not None and _started(int(note["process"])) == note["started"]


def _started(process: int) -> str | None:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _boot() -> str | None:
    try:
        return BOOT.read_text().strip()
    except OSError:
        return None
