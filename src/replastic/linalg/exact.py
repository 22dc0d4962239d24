"""The polar factor to near float32 accuracy on every device: the library's default."""

from __future__ import annotations

import torch

from replastic.linalg.eigen import by_eigenvectors
from replastic.linalg.iterative import by_float64_gram
from replastic.linalg.rational import by_products
from replastic.linalg.tall import Solved, Tall

_LARGE = 192
"""From this size n on products alone are faster than LAPACK's eigenvectors."""
_TALL = 3
"""From m = 3 n on eigenvectors are as fast: they take two products with the m rows, the steps take two each."""


def exact(tall: Tall, *, complete: bool = True) -> Solved:
    """W (W^T W)^(-1/2), within 3e-4 of the float64 factor up to condition 1e4 and with a residual below 1e-8.

    On a CPU large float32 matrices are solved by float32 products alone (`by_products`), which leaves to the
    eigenvectors of the float64 Gram matrix all that it cannot do well: rank-deficient and ill-conditioned matrices.
    Small and tall ones are solved by eigenvectors at once, and so are float64 weights. On a CUDA device the inverse
    square root of the Gram matrix comes from minimax polynomials in float64, since eigenvectors of a batch are slow
    there and float64 products are not. The shape alone decides, so that equal weights give equal factors.

    Tall matrices are read and written in blocks of rows: besides the weight and its factor, memory holds a few n x n
    matrices and one block, for every m. The others need two copies of the matrix. The factor may overwrite the weight.

    Args:
        tall: The matrices, and where the factors go.
        complete: Fill the directions in which W is zero (singular value below 1e-6 of the largest), so that the factor
            is orthonormal. Otherwise the factor is a partial isometry: zero in those directions.
    """
    _, m, n = tall.shape
    if tall.w.is_cuda:
        return by_float64_gram(tall, complete=complete)
    if tall.out.dtype == torch.float32 and n >= _LARGE and m < _TALL * n:
        return by_products(tall, complete=complete)
    return by_eigenvectors(tall, complete=complete)
