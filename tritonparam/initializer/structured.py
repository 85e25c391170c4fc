"""The initializers whose elements belong together: Identity, Dirac, Orthogonal and Sparse, of MindSpore 2."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral

from tritonparam._arguments import got, shown
from tritonparam.initializer.initializers import _check_number
from tritonparam.initializer.patterns import DiagonalPattern, OrthogonalPattern, SparsePattern
from tritonparam.tensor import Initializer


def _check_rank(init: object, shape: tuple[int, ...], lowest: int, highest: int | None) -> None:
    if len(shape) < lowest or (highest is not None and len(shape) > highest):
        allowed = f"{lowest}" if lowest == highest else f"{lowest} to {highest}" if highest else f"at least {lowest}"
        raise ValueError(f"shape must have {allowed} dimensions for {shown(init)}, got {shown(shape)}")


@dataclass(frozen=True)
class Identity(Initializer):
    """Ones on the main diagonal of a matrix, zeros elsewhere; 'identity'.

    The diagonal is that of the whole matrix, also in a slice of it. (In MindSpore every slice starts a diagonal of its
    own.)

    Examples:
        >>> from tritonparam.initializer import initializer
        >>> print(initializer("identity", (2, 3)).asnumpy())
        [[1. 0. 0.]
         [0. 1. 0.]]
    """

    def law(self, shape: tuple[int, ...]) -> DiagonalPattern:
        _check_rank(self, shape, 2, 2)
        return DiagonalPattern(shape)


@dataclass(frozen=True)
class Dirac(Initializer):
    """A convolution weight that passes its input on: one 1 a channel, in the middle of the kernel; 'dirac'.

    The output channels are `groups` groups of n. Of each, output channel d takes input channel d, for every d below n
    and the number of input channels: element [group * n + d, d, size // 2, ...] is 1. Source: Zagoruyko and Komodakis,
    DiracNets, 2017; MindSpore 2.10 and torch.nn.init.dirac_.

    Args:
        groups: >= 1, and a divisor of the output channels.

    Raises:
        TypeError, ValueError: groups is not such a number, or the shape is not of 3 to 5 dimensions.

    Examples:
        >>> from tritonparam.initializer import initializer
        >>> print(initializer(Dirac(2), (4, 2, 1)).asnumpy()[:, :, 0])
        [[1. 0.]
         [0. 1.]
         [1. 0.]
         [0. 1.]]
    """

    groups: int = 1

    def __post_init__(self) -> None:
        groups: object = self.groups
        if isinstance(groups, bool) or not isinstance(groups, Integral):
            raise TypeError(f"groups must be an int, {got(groups)}")
        if groups < 1:
            raise ValueError(f"groups must be >= 1, got {shown(groups)}")

    def law(self, shape: tuple[int, ...]) -> DiagonalPattern:
        _check_rank(self, shape, 3, 5)
        if shape[0] % self.groups:
            raise ValueError(f"groups must divide shape[0], got groups={shown(self.groups)} and shape {shape}")
        return DiagonalPattern(shape, int(self.groups))


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """Rows or columns, whichever are fewer, that are orthogonal and of length `gain`; 'orthogonal'.

    A tensor of more than two dimensions is the matrix [shape[0], the rest]. It is the Q of the QR factorization of a
    draw from N(0, 1), each column with the sign of R's diagonal, which makes Q uniform among all such matrices.
    Source: Saxe et al., Exact solutions to the nonlinear dynamics of learning in deep linear networks, 2013; signs as
    in Mezzadri, How to generate random matrices from the classical compact groups, 2007; as in MindSpore 2.10.

    The draw comes from the stream. It is factorized on the host in float64 by LAPACK and rounded: to float32 and from
    there to a narrower dtype. So the values depend on (seed, name, shape, gain), and in their last bits on that LAPACK,
    the processor and the number of threads: they are NOT bit-identical from machine to machine. Everywhere, no element
    of Q Q^T - gain**2 I is above 1e-6 gain**2 in float32, or 1e-13 gain**2 in float64. A box has the values of the
    whole, and takes the time and the host memory of the whole.

    Raises:
        TypeError, ValueError: gain is not a finite number, or the shape has fewer than 2 dimensions.

    Examples:
        >>> from tritonparam.initializer import initializer
        >>> q = initializer("orthogonal", (3, 5)).asnumpy()
        >>> bool(abs(q @ q.T - [[1, 0, 0], [0, 1, 0], [0, 0, 1]]).max() < 1e-6)
        True
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        _check_number("gain", self.gain)

    def law(self, shape: tuple[int, ...]) -> OrthogonalPattern:
        _check_rank(self, shape, 2, None)
        return OrthogonalPattern(shape, float(self.gain))


@dataclass(frozen=True)
class Sparse(Initializer):
    """A matrix of values from N(0, sigma) with ceil(sparsity * rows) zeros in every column.

    Which rows are zero comes from the stream: element (r, c) of a second tensor of this shape, uniform on [0, 1) and
    keyed by derive_key(key of this tensor, "sparse"), is its rank; in every column the rows of the lowest ranks are
    zero, of equal ones the upper. So all values are bit-identical everywhere, and in every box. Source: Martens, Deep
    learning via Hessian-free optimization, 2010, as in MindSpore 2.10.

    Args:
        sparsity: In [0, 1]; it has no default, so the name 'sparse' alone is an error.
        sigma: >= 0.

    Raises:
        TypeError, ValueError: An argument is none of these, or the shape is not of 2 dimensions.

    Examples:
        >>> from tritonparam.initializer import initializer
        >>> (initializer(Sparse(0.5), (5, 100)).asnumpy() == 0).sum(axis=0).tolist() == [3] * 100
        True
    """

    sparsity: float
    sigma: float = 0.01

    def __post_init__(self) -> None:
        _check_number("sparsity", self.sparsity, minimum=0.0)
        if self.sparsity > 1:
            raise ValueError(f"sparsity must be in [0, 1], got {shown(self.sparsity)}")
        _check_number("sigma", self.sigma, minimum=0.0)

    def law(self, shape: tuple[int, ...]) -> SparsePattern:
        _check_rank(self, shape, 2, 2)
        return SparsePattern(shape, math.ceil(float(self.sparsity) * shape[0]), float(self.sigma))
