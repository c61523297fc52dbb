"""The examples in the documentation give the answers printed beside them."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

from clisonix import liam

MODULES = [f"clisonix.liam.{module.name}" for module in pkgutil.iter_modules(liam.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_front_doors_have_examples() -> None:
    for name in ("algebra", "matrix", "simplify", "latent", "thin", "solve", "permutation", "cat", "blockdiagonal"):
        finder = doctest.DocTestFinder()
        found = finder.find(importlib.import_module(f"clisonix.liam.{name}"))
        assert any(test.examples for test in found), name
