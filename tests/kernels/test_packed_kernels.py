"""Packed signs and codes: packing, and the operators on whatever runs them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clisonix.errors import ClisonixError
from clisonix.kernels.binary import binary_matmul, binary_matmul_t, pack_signs, unpack_signs
from clisonix.kernels.integer import integer_matmul, integer_matmul_t, pack_codes, unpack_codes


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 9), st.integers(0, 40), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_unpacking_inverts_packing_at_any_width(m: int, n: int, seed: int) -> None:
    positive = randn(m, n, seed=seed) >= 0
    signs = torch.where(positive, 1.0, -1.0)
    for given_as in (positive, signs, signs.to(torch.int8), signs.half()):
        packed = pack_signs(given_as)
        assert packed.dtype == torch.uint8
        assert packed.shape == (m, (n + 7) // 8)
        assert torch.equal(unpack_signs(packed, n), signs)


def test_the_layout_of_bits_is_the_documented_one() -> None:
    signs = -torch.ones(1, 10)
    signs[0, 0] = signs[0, 3] = signs[0, 9] = 1
    assert pack_signs(signs).tolist() == [[0b00001001, 0b00000010]]


def test_only_signs_can_be_packed() -> None:
    with pytest.raises(ClisonixError, match="Only"):
        pack_signs(torch.zeros(2, 2))
    with pytest.raises(ClisonixError, match="matrix"):
        pack_signs(torch.ones(2))


@pytest.mark.parametrize("blocked", [False, True])
def test_sign_products_pass_the_operator_checks_of_torch(blocked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if blocked:
        monkeypatch.setattr("clisonix.kernels.planes_reference.BLOCK_ENTRIES", 22)
    packed = pack_signs(randn(5, 11) >= 0)
    scales = randn(5, seed=1).requires_grad_()
    for op, size in ((torch.ops.clisonix.packed_matmul, 11), (torch.ops.clisonix.packed_matmul_t, 5)):
        torch.library.opcheck(op, (randn(2, 3, size).requires_grad_(), scales, packed, 11, 11, 2, 1))
    for product, size in ((binary_matmul, 11), (binary_matmul_t, 5)):
        arguments = (randn(2, size).requires_grad_(), scales)
        assert torch.autograd.gradgradcheck(lambda x, s, f=product: f(x, packed, s, 11), arguments)


@given(st.integers(0, 5), st.integers(0, 20), st.integers(1, 8), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_unpacking_inverts_packing_at_any_number_of_bits(m: int, n: int, bits: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (m, n), generator=generator, dtype=torch.uint8)
    planes = pack_codes(codes, bits)
    assert planes.shape == (bits, m, (n + 7) // 8)
    assert torch.equal(unpack_codes(planes, n), codes)


def test_codes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ClisonixError, match="do not fit 2 bits"):
        pack_codes(torch.tensor([[4]], dtype=torch.uint8), 2)


def test_integer_products_pass_the_operator_checks_of_torch() -> None:
    codes = torch.randint(0, 8, (3, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    planes, scales = pack_codes(codes, 3), randn(3, 3, seed=1).requires_grad_()
    x, y = randn(2, 2, 5).requires_grad_(), randn(2, 2, 3).requires_grad_()
    torch.library.opcheck(torch.ops.clisonix.packed_matmul, (x, scales, planes, 5, 2, 1, 4))
    torch.library.opcheck(torch.ops.clisonix.packed_matmul_t, (y, scales, planes, 5, 2, 1, 4))
    torch.library.opcheck(torch.ops.clisonix.packed_scale_sums, (y, x, planes, 5, 2, 1, 4))
    for product, operand in ((integer_matmul, x), (integer_matmul_t, y)):
        assert torch.autograd.gradgradcheck(
            lambda x, s, f=product: f(x, planes, s, 5, 2, 4), (operand[0].detach().requires_grad_(), scales)
        )
