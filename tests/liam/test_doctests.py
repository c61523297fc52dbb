"""The examples in the documentation give the answers printed beside them."""

from __future__ import annotations

import doctest

import pytest

from clisonix.liam import algebra, matrix


@pytest.mark.parametrize("module", [algebra, matrix])
def test_examples(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.attempted > 0
    assert result.failed == 0
