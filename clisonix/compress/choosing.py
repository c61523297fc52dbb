"""Choosing a form for each weight under a budget, again and again as more is known of their errors."""

from __future__ import annotations

from collections.abc import Mapping

from clisonix.compress.allocate import Choice, Curve, OutOfReachError, allocate
from clisonix.compress.forms import Form
from clisonix.compress.options import Option, corrected
from clisonix.compress.prices import FileBudget, MeasuredBudget
from clisonix.compress.workshop import Workshop
from clisonix.liam.matrix import Matrix

# Rounds in which matrices whose error was only estimated are made, measured and chosen anew.
_ROUNDS = 2


class Choosing:
    """Chooses options under the budget, again and again as more is known of their errors."""

    def __init__(
        self, problem: FileBudget | MeasuredBudget, curves: dict[str, list[Option]], workshop: Workshop
    ) -> None:
        self.problem, self.curves, self.workshop = problem, curves, workshop
        self.made: dict[tuple[str, Form], Matrix] = {}
        self._measured: set[tuple[str, Form]] = set()

    def allocate(self, factors: Mapping[str, float] | None = None) -> dict[str, Option]:
        """The best choice for the errors as they are known, those of each weight times its factor."""
        scale = factors or {}
        curves = [
            Curve.of(
                name,
                [option.cost or 0.0 for option in found],
                [option.error * scale.get(name, 1.0) for option in found],
            )
            for name, found in self.curves.items()
        ]
        places = {curve.name: curve.places for curve in curves}

        def chosen(steps: Choice) -> dict[str, Option]:
            return {name: self.curves[name][places[name][step]] for name, step in steps.items()}

        try:
            return chosen(allocate(curves, self.problem.budget, lambda steps: self.problem.exact(chosen(steps))))
        except OutOfReachError as error:
            raise self.problem.refuse(error.smallest, len(curves)) from None

    def choose(self, *, measure: bool, factors: Mapping[str, float] | None = None) -> dict[str, Option]:
        """`allocate`; what was only estimated and got chosen is made and measured, and then chosen anew."""
        chosen = self.allocate(factors)
        for _ in range(_ROUNDS if measure else 0):
            unsure = [
                (name, option)
                for name, option in chosen.items()
                if _estimated(option.form) and (name, option.form) not in self._measured
            ]
            if not unsure:
                break
            for name, option in unsure:
                self.curves[name] = corrected(self.curves[name], option.form, self.measure(name, option))
            chosen = self.allocate(factors)
        return chosen

    def measure(self, name: str, option: Option) -> float:
        """The error that an option really makes."""
        error = self.workshop.error(name, self.matrix(name, option.form))
        self._measured.add((name, option.form))
        return error

    def matrix(self, name: str, form: Form) -> Matrix:
        """The matrix of an option; made once."""
        if (name, form) not in self.made:
            self.made[name, form] = self.workshop.make(name, form)
        return self.made[name, form]


def _estimated(form: Form) -> bool:
    """Whether the error of this form is a rough estimate until it is made."""
    return form.kind == "double binary" or (form.kind == "lowrank" and form.bits is not None)
