"""Probes of a running network that leave no trace in it: activations, gradients, curvature, kernels, Jacobians."""

from replastic.probes.activations import activations
from replastic.probes.curvature import TopEigenvalues, hessian_density, hessian_eigenvalues
from replastic.probes.forward import check_features, forward_on, linear_inputs
from replastic.probes.gradients import gradients
from replastic.probes.hessian import HessianProduct
from replastic.probes.jacobian import JacobianSpectrum, jacobian_spectrum
from replastic.probes.kronecker import KroneckerRank, kronecker_ranks
from replastic.probes.layer_jacobian import LayerJacobians, layer_jacobians
from replastic.probes.loss import check_loss_fn, loss_on
from replastic.probes.ntk import LayerKernel, Ntk, NtkKind, ntk
from replastic.probes.products import last_products
from replastic.probes.quiet import undisturbed, without_dropout
from replastic.probes.readiness import Readiness, optimization_readiness
from replastic.probes.slope import gradient_norms

__all__ = [
    "HessianProduct",
    "JacobianSpectrum",
    "KroneckerRank",
    "LayerJacobians",
    "LayerKernel",
    "Ntk",
    "NtkKind",
    "Readiness",
    "TopEigenvalues",
    "activations",
    "check_features",
    "check_loss_fn",
    "forward_on",
    "gradient_norms",
    "gradients",
    "hessian_density",
    "hessian_eigenvalues",
    "jacobian_spectrum",
    "kronecker_ranks",
    "last_products",
    "layer_jacobians",
    "linear_inputs",
    "loss_on",
    "ntk",
    "optimization_readiness",
    "undisturbed",
    "without_dropout",
]
