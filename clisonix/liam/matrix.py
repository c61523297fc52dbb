"""What every matrix of the algebra can do, whatever form it is stored in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor, nn

from clisonix.errors import ClisonixError

if TYPE_CHECKING:
    from clisonix.liam.nodes import Scaled
    from clisonix.liam.selection import Key


class Matrix(nn.Module, ABC):
    """A real linear map of shape `(m, n)` that is an ordinary module holding ordinary tensors.

    A new form implements four things: `shape`, `forward`, `adjoint` and `dense`. Everything else
    follows. Operators `+ - @ * .T [rows, columns]` are lazy and share the tensors of their operands, so
    gradients reach them:

        >>> import torch
        >>> from clisonix.liam import Diagonal, LowRank
        >>> a = LowRank(torch.ones(4, 1), torch.ones(1, 3))
        >>> b = 2 * a @ Diagonal(torch.tensor([1.0, 2.0, 3.0]))
        >>> (b @ torch.ones(3)).tolist()
        [12.0, 12.0, 12.0, 12.0]
        >>> b.T.shape, b.nbytes
        ((3, 4), 44)
        >>> b[1:3, -1].dense().tolist()
        [[6.0], [6.0]]

    `simplify(A)` is the same map in fewer steps; `solve`, `recompress`, `pack` and `unpack` are functions too.

    Entries that a form does not store (off a diagonal, in a sparse matrix) are exactly zero: a NaN or an
    infinity in an input does not pass through them, while `0 * inf` in a dense product gives NaN.

    Inside a function given to `torch.compile` write `A.matmul(x)` for `A @ x` and `A.adjoint(x)` for `x @ A`:
    Dynamo (2.13) hands `@` between a module and a tensor to neither. Outside, `x @ A` costs some tens of
    microseconds more than `A.adjoint(x)`, since torch first tries and fails to read `A` as a tensor.
    """

    # NumPy scalars on the left of `*` would otherwise build an object array instead of asking us.
    __array_ufunc__ = None
    # Indexing gives matrices, which are no sequence of rows to loop over.
    __iter__ = None

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

    def matmul(self, x: Tensor) -> Tensor:
        """`dense() @ x`: `(..., n, k)` to `(..., m, k)`, which is `A @ x` for anything but a vector."""
        return self(check_size(x, -2, self, self.shape[1]).mT).mT  # type: ignore[no-any-return]

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
        if isinstance(other, Tensor):
            if other.ndim > 1:
                return self.matmul(other)
            if other.ndim == 1:
                return self(other)  # type: ignore[no-any-return]
            raise ClisonixError(f"A matrix {self.shape} times a single number is written `c * A`, not `A @ c`.")
        if isinstance(other, Matrix):
            from clisonix.liam.nodes import Product

            return Product(self, other)
        return NotImplemented

    def __rmatmul__(self, other: Tensor) -> Tensor:
        """`x @ A` for `x` of shape `(m,)` or `(..., m)`."""
        if not isinstance(other, Tensor):
            return NotImplemented
        if other.ndim == 0:
            raise ClisonixError(f"A single number times a matrix {self.shape} is written `c * A`, not `c @ A`.")
        return self.adjoint(other)

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

    def __getitem__(self, key: Key | tuple[Key, Key]) -> Matrix:
        """`A[rows, columns]`, lazy; a matrix too, so a single number keeps one row or column.

        Args:
            key: for each side a slice, a whole number, or a vector of whole numbers or booleans. Two vectors
                give every row with every column, as `dense()[rows][:, columns]`.

        Raises:
            ClisonixError: something else, or a place outside the matrix.
        """
        from clisonix.liam.slicing import part

        return part(self, key)

    def extra_repr(self) -> str:
        m, n = self.shape
        return f"{m}×{n}, {str(self.dtype).removeprefix('torch.')}, {self.nbytes} bytes"

    def _first_float(self) -> Tensor:
        # Most forms hold one; walking the whole tree costs more than a small product.
        for held in self._parameters.values():
            if held is not None and held.is_floating_point():
                return held
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.is_floating_point():
                return tensor
        raise ClisonixError(f"{type(self).__name__} {self.shape} holds no floating-point tensor.")


def check_size(x: Tensor, dim: int, matrix: Matrix, expected: int) -> Tensor:
    """`x`, when the product with `matrix` can take it: size of dimension `dim`, dtype and device.

    Raises:
        ClisonixError: one of them differs (broadcasting would otherwise give a wrong answer silently).
    """
    return check_input(x, dim, matrix, expected, matrix._first_float())


def check_input(x: Tensor, dim: int, matrix: Matrix, expected: int, held: Tensor) -> Tensor:
    """`check_size` for a caller that has the first floating-point tensor of `matrix` at hand."""
    if x.ndim + dim >= 0 and x.shape[dim] == expected and x.dtype is held.dtype and x.device == held.device:
        return x
    _refuse(x, dim, matrix, expected, held)
    return x


def _refuse(x: Tensor, dim: int, matrix: Matrix, expected: int, held: Tensor) -> None:
    """Say what does not fit; a difference in dtype does under autocast, which converts on the way."""

    def both(mine: object, given: object) -> str:
        return f"{type(matrix).__name__} of {mine} cannot multiply a tensor of {given}"

    if x.ndim + dim < 0 or x.shape[dim] != expected:
        where = "it needs one or more dimensions" if x.ndim == 0 else f"dimension {dim} must be {expected}"
        raise ClisonixError(f"{both(f'shape {matrix.shape}', f'shape {tuple(x.shape)}')}: {where}.")
    if x.device != held.device:
        raise ClisonixError(f"{both(f'device {held.device}', f'device {x.device}')}: move one to the other.")
    if not torch.is_autocast_enabled(x.device.type):
        raise ClisonixError(f"{both(held.dtype, x.dtype)}: convert one with .to({held.dtype}) or .to({x.dtype}).")


def check_alike(matrices: Sequence[Matrix], verb: str) -> None:
    """Raise unless all of `matrices` have one dtype and one device, as those that are to be `verb` must."""
    first = matrices[0]
    for other in matrices[1:]:
        if (other.dtype, other.device) != (first.dtype, first.device):
            raise ClisonixError(
                f"{type(first).__name__} of {first.dtype} on {first.device} and {type(other).__name__} of "
                f"{other.dtype} on {other.device} cannot be {verb}; convert one with .to(...)."
            )


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
