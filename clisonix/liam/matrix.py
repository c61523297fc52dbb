"""What every matrix of the algebra can do, whatever form it is stored in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor, nn

from clisonix.errors import ClisonixError

if TYPE_CHECKING:
    from clisonix.liam.nodes import Scaled


class Matrix(nn.Module, ABC):
    """A real linear map of shape `(m, n)` that is an ordinary module holding ordinary tensors.

    A new form implements four things: `shape`, `forward`, `adjoint` and `dense`. Everything else
    follows. Operators are lazy and share the tensors of their operands, so gradients reach them:

        >>> import torch
        >>> from clisonix.liam import Diagonal, LowRank
        >>> a = LowRank(torch.ones(4, 1), torch.ones(1, 3))
        >>> b = 2 * a @ Diagonal(torch.tensor([1.0, 2.0, 3.0]))
        >>> (b @ torch.ones(3)).tolist()
        [12.0, 12.0, 12.0, 12.0]
        >>> b.T.shape, b.nbytes
        ((3, 4), 44)

    Inside a function given to `torch.compile` write `A(x)` for `A @ x` and `A.adjoint(x)` for `x @ A`: Dynamo
    (2.13) does not look for `@` on modules.
    """

    # NumPy scalars on the left of `*` would otherwise build an object array instead of asking us.
    __array_ufunc__ = None

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Rows and columns `(m, n)`."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """`x @ dense().T`, as `nn.Linear` uses its weight: `(..., n)` to `(..., m)`."""

    @abstractmethod
    def adjoint(self, x: Tensor) -> Tensor:
        """`x @ dense()`: `(..., m)` to `(..., n)`."""

    @abstractmethod
    def dense(self) -> Tensor:
        """The entries as one tensor `(m, n)`, differentiable in whatever the form holds."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of the entries: that of the first floating-point tensor held."""
        return self._first_float().dtype

    @property
    def device(self) -> torch.device:
        """Where the first floating-point tensor lives."""
        return self._first_float().device

    @property
    def nbytes(self) -> int:
        """Bytes of tensor data in a safetensors file of `state_dict()`; a tensor used twice counts once."""
        held = {id(tensor): tensor.nbytes for tensor in self.state_dict(keep_vars=True).values()}
        return sum(held.values())

    @property
    def T(self) -> Matrix:  # noqa: N802 - the field's name
        """The transpose, sharing every tensor."""
        from clisonix.liam.nodes import Transpose

        return Transpose(self)

    @overload
    def __matmul__(self, other: Tensor) -> Tensor: ...
    @overload
    def __matmul__(self, other: Matrix) -> Matrix: ...
    def __matmul__(self, other: Tensor | Matrix) -> Tensor | Matrix:
        """`A @ x` for `x` of shape `(n,)` or `(..., n, k)`, or the lazy product with a matrix."""
        if isinstance(other, Matrix):
            from clisonix.liam.nodes import Product

            return Product(self, other)
        if not isinstance(other, Tensor):
            return NotImplemented
        if other.ndim == 0:
            raise ClisonixError(f"A matrix {self.shape} times a single number is written `c * A`, not `A @ c`.")
        if other.ndim == 1:
            return self(check_size(other, -1, self, self.shape[1]))  # type: ignore[no-any-return]
        return self(check_size(other, -2, self, self.shape[1]).mT).mT  # type: ignore[no-any-return]

    def __rmatmul__(self, other: Tensor) -> Tensor:
        """`x @ A` for `x` of shape `(m,)` or `(..., m)`."""
        if not isinstance(other, Tensor):
            return NotImplemented
        if other.ndim == 0:
            raise ClisonixError(f"A single number times a matrix {self.shape} is written `c * A`, not `c @ A`.")
        return self.adjoint(check_size(other, -1, self, self.shape[0]))

    def __add__(self, other: Matrix) -> Matrix:
        if not isinstance(other, Matrix):
            return NotImplemented
        from clisonix.liam.nodes import Sum

        return Sum(self, other)

    def __sub__(self, other: Matrix) -> Matrix:
        if not isinstance(other, Matrix):
            return NotImplemented
        return self + (-other)

    def __neg__(self) -> Scaled:
        return self * -1.0

    def __mul__(self, scale: float | Tensor) -> Scaled:
        """`A * c` for a number or a tensor with one element; entrywise products are not offered."""
        from clisonix.liam.nodes import Scaled

        if isinstance(scale, Matrix | nn.Module):
            return NotImplemented
        return Scaled(self, scale)

    __rmul__ = __mul__

    def extra_repr(self) -> str:
        m, n = self.shape
        return f"{m}×{n}, {str(self.dtype).removeprefix('torch.')}, {self.nbytes} bytes"

    def _first_float(self) -> Tensor:
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.is_floating_point():
                return tensor
        raise ClisonixError(f"{type(self).__name__} {self.shape} holds no floating-point tensor.")


def check_size(x: Tensor, dim: int, matrix: Matrix, expected: int) -> Tensor:
    """`x`, when its dimension `dim` has the size that the product with `matrix` needs.

    Raises:
        ClisonixError: the sizes differ (broadcasting would otherwise give a wrong answer silently).
    """
    if x.shape[dim] != expected:
        raise ClisonixError(
            f"{type(matrix).__name__} of shape {matrix.shape} cannot multiply a tensor of shape "
            f"{tuple(x.shape)}: dimension {dim} must be {expected}."
        )
    return x


def as_parameter(tensor: Tensor, name: str, ndim: int) -> nn.Parameter:
    """`tensor` as a parameter that safetensors will accept; a parameter is kept as it is, still shared.

    Raises:
        ClisonixError: not a dense floating-point tensor with `ndim` dimensions.
    """
    check_dense_float(tensor, name, ndim)
    if isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor.detach().contiguous())


def check_dense_float(tensor: Tensor, name: str, ndim: int) -> None:
    """Raise unless `tensor` is a strided floating-point tensor with `ndim` dimensions."""
    if not isinstance(tensor, Tensor):
        raise ClisonixError(f"{name} is a {type(tensor).__name__}; give a torch.Tensor.")
    if tensor.ndim != ndim or tensor.layout != torch.strided or not tensor.is_floating_point():
        raise ClisonixError(
            f"{name} is a {tensor.dtype} tensor of shape {tuple(tensor.shape)} and layout {tensor.layout}; "
            f"give a dense floating-point tensor with {ndim} dimension{'s' * (ndim != 1)}."
        )


def check_finite(x: Tensor, name: str) -> Tensor:
    """`x`, when none of its entries is NaN or infinite.

    Raises:
        ClisonixError: some are.
    """
    if not bool(x.isfinite().all()):
        bad = int((~x.isfinite()).sum())
        raise ClisonixError(f"{bad} of {x.numel()} entries of {name} are NaN or infinite; replace them first.")
    return x
