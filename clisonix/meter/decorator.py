"""A decorator that measures what a function's calls cost."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from clisonix.errors import ClisonixError
from clisonix.meter.energy import Energy
from clisonix.meter.meter import Meter
from clisonix.meter.spans import Span
from clisonix.meter.window import Window

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")

_around: ContextVar[tuple[int, Meter] | None] = ContextVar("clisonix_measured", default=None)
"""The process and the meter of the measured call that encloses this one."""


class Measurement:
    """What one call cost. Figures are worked out when asked for.

    Attributes:
        name: of the window.
        failed: whether the call raised an exception.
    """

    def __init__(self, meter: Meter, window: Window, failed: bool) -> None:
        self.name, self.failed = window.name, failed
        self._meter, self._window = meter, window

    @property
    def seconds(self) -> float:
        """Duration of the call."""
        return self._window.seconds or 0.0

    @property
    def energy(self) -> Energy:
        """The best figure of each device, summed; a missing one says why, and is never 0."""
        return self._window.energy()

    @property
    def readings(self) -> list[Energy]:
        """One figure per sensor."""
        start_s, end_s = self._window.start_s or 0.0, self._window.end_s or 0.0
        return self._meter.trace().readings_during([Span(self.name, start_s, end_s)])

    def __repr__(self) -> str:
        return f"Measurement({self.name!r}, seconds={self.seconds:.6g}, energy={self.energy})"


class MeasuredFunction(Protocol[P, R_co]):
    """A function that is measured.

    Attributes:
        last: the call that ended last; None before.
    """

    last: Measurement | None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    def __get__(self, instance: Any, owner: Any = None) -> Callable[..., R_co]: ...  # noqa: ANN401


@overload
def measured(function: Callable[P, R], /) -> MeasuredFunction[P, R]: ...
@overload
def measured(
    *,
    name: str | None = None,
    meter: Meter | Callable[[], Meter] | None = None,
    on_result: Callable[[Measurement], object] | None = None,
    sync: bool = False,
) -> Callable[[Callable[P, R]], MeasuredFunction[P, R]]: ...
def measured(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    meter: Meter | Callable[[], Meter] | None = None,
    on_result: Callable[[Measurement], object] | None = None,
    sync: bool = False,
) -> Any:
    """Measure every call of a function; what it returns or raises stays as it is.

    ```python
    @measured
    def work(): ...

    work()
    print(work.last.energy)
    ```

    A call inside another measured call, in the same thread or task, is a window in that one's meter. With a meter of
    its own a call takes up to half a second longer where a GPU is metered: its counter's next tick is waited for. Of
    a coroutine function each await counts too, with whatever else this process does meanwhile.

    Args:
        function: to be measured; not a generator function.
        name: of the window; `/` separates levels. None takes the function's qualified name.
        meter: a running meter, in which each call is a window; or what makes a new one for each call, like
            `lambda: Meter(place="FRA")`. None makes one with all sensors of the machine.
        on_result: called with the `Measurement` of every call, also of one that raised.
        sync: wait for the work queued on CUDA devices before and after; see `Meter.window`.

    Returns:
        The function; its attribute `last` is the `Measurement` of the call that ended last, in whatever thread.

    Raises:
        ClisonixError: a generator function or a class is decorated; when called, the given meter does not run.
    """
    if function is None:
        return functools.partial(_wrap, name=name, meter=meter, on_result=on_result, sync=sync)
    return _wrap(function, name=name, meter=meter, on_result=on_result, sync=sync)


def _wrap(
    function: Callable[..., Any],
    *,
    name: str | None,
    meter: Meter | Callable[[], Meter] | None,
    on_result: Callable[[Measurement], object] | None,
    sync: bool,
) -> Any:  # noqa: ANN401 - a function of the same kind
    shown = _name_of(function)
    # A staticmethod can be called, but would turn into an ordinary method.
    if not callable(function) or isinstance(function, type | staticmethod):
        raise ClisonixError(
            f"measured was given {shown}, which is no function: put it right above def, below any staticmethod"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ClisonixError(
            f"measured cannot measure the generator function {shown}, whose body runs between other code: decorate "
            "the function that consumes it, or open a window of a Meter inside"
        )
    window_name = shown if name is None else name
    if not all(window_name.split("/")):
        raise ClisonixError(
            f"measured needs a name with words between its slashes, like 'train/step'; given {name!r}"
        )

    @contextlib.contextmanager
    def call() -> Iterator[None]:
        found = None
        try:
            with _running(meter, shown) as running:
                window, failed = running.window(window_name, sync=sync), True
                try:
                    with window:
                        yield
                    failed = False
                finally:
                    found = wrapper.last = Measurement(running, window, failed)
        finally:
            # After the end of a meter of its own, whose last samples narrow the figures.
            if found is not None and on_result is not None:
                on_result(found)

    wrapper: Any
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            with call():
                return await function(*args, **kwargs)

    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            with call():
                return function(*args, **kwargs)

    wrapper.last = None
    return wrapper


@contextlib.contextmanager
def _running(meter: Meter | Callable[[], Meter] | None, shown: str) -> Iterator[Meter]:
    """The meter of one call: the given one, that of the call around, or a new one."""
    around = _around.get()
    if isinstance(meter, Meter):
        if not meter.running:
            raise ClisonixError(
                f"the meter given to measured for {shown} does not run: call {shown} inside `with meter:`, or leave "
                "the meter out"
            )
        ready: contextlib.AbstractContextManager[Meter] = contextlib.nullcontext(meter)
    elif meter is None and around is not None and around[0] == os.getpid() and around[1].running:
        ready = contextlib.nullcontext(around[1])
    else:
        ready = Meter() if meter is None else meter()
    with ready as running:
        token = _around.set((os.getpid(), running))
        try:
            yield running
        finally:
            _around.reset(token)


def _name_of(function: object) -> str:
    # The partial of a function has no name of its own.
    named = function.func if isinstance(function, functools.partial) else function
    return str(getattr(named, "__qualname__", type(named).__name__)).rpartition("<locals>.")[2].replace("/", "|")
