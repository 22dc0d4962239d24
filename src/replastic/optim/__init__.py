"""Optimizers that torch does not have, behind torch's own interface."""

from replastic.optim.muon_adam import MuonAdam

__all__ = ["MuonAdam"]
