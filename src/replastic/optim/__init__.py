"""Optimizers that torch does not have, with torch's own interface."""

from replastic.optim.muon_adam import MuonAdam

__all__ = ["MuonAdam"]
