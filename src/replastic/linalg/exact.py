"""The polar factor to near float32 accuracy on every device: the library's default."""

from __future__ import annotations

from replastic.linalg.eigen import by_eigenvectors
from replastic.linalg.iterative import by_float64_gram
from replastic.linalg.tall import Solved, Tall


def exact(tall: Tall, *, complete: bool = True) -> Solved:
    """W (W^T W)^(-1/2), within 3e-4 of the float64 factor up to condition 1e4 and with a residual below 1e-8.

    The inverse square root of the n x n Gram matrix is computed in float64. On a CPU it comes from eigenvectors. On a
    CUDA device it comes from minimax polynomials, since eigenvectors of a batch are slow there and float64 products
    are not. Besides the weight and its factor, memory holds a few n x n matrices and one block of rows, for every m. A
    block is read before it is written, so the factor may overwrite the weight.

    Args:
        tall: The matrices, and where the factors go.
        complete: Fill the directions in which W is zero (singular value below 1e-6 of the largest), so that the factor
            is orthonormal. Otherwise the factor is a partial isometry: zero in those directions.
    """
    solve = by_float64_gram if tall.w.is_cuda else by_eigenvectors
    return solve(tall, complete=complete)
