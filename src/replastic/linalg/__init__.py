"""Tensors in, tensors out: polar factors, measures of isometry, spectra and ranks. No layers, no models."""

from replastic.linalg.band import Clamped, clamp_singular_values
from replastic.linalg.bounds import (
    covariance_gap,
    covariance_gap_bound,
    dfi_for_no_dormant,
    dormancy_interval,
    hessian_bound,
    hessian_factors,
    srank_bound,
    why_no_promise,
)
from replastic.linalg.density import (
    ABSOLUTE_EPSILON,
    RELATIVE_EPSILON,
    RankEstimate,
    SpectralDensity,
    dense_density,
    num_products,
    quadrature,
    spectral_density,
)
from replastic.linalg.dormancy import dormancy_scores, stuck
from replastic.linalg.erfi import erfi
from replastic.linalg.lanczos import LanczosResult, lanczos
from replastic.linalg.magnitude import frobenius, near_one, towards_one
from replastic.linalg.measures import dfi, dfi_scaled, normalised_sfe, residual, sfe
from replastic.linalg.polar import SOLVERS, polar
from replastic.linalg.result import PolarResult
from replastic.linalg.rows import GramRoot, gram_of, gram_root
from replastic.linalg.scales import SCALES, SHAPE_SCALES, scale_factor
from replastic.linalg.spectra import Spectrum, effective_rank, singular_values, srank, stable_rank

__all__ = [
    "ABSOLUTE_EPSILON",
    "RELATIVE_EPSILON",
    "SCALES",
    "SHAPE_SCALES",
    "SOLVERS",
    "Clamped",
    "GramRoot",
    "LanczosResult",
    "PolarResult",
    "RankEstimate",
    "SpectralDensity",
    "Spectrum",
    "clamp_singular_values",
    "covariance_gap",
    "covariance_gap_bound",
    "dense_density",
    "dfi",
    "dfi_for_no_dormant",
    "dfi_scaled",
    "dormancy_interval",
    "dormancy_scores",
    "effective_rank",
    "erfi",
    "frobenius",
    "gram_of",
    "gram_root",
    "hessian_bound",
    "hessian_factors",
    "lanczos",
    "near_one",
    "normalised_sfe",
    "num_products",
    "polar",
    "quadrature",
    "residual",
    "scale_factor",
    "sfe",
    "singular_values",
    "spectral_density",
    "srank",
    "srank_bound",
    "stable_rank",
    "stuck",
    "towards_one",
    "why_no_promise",
]
