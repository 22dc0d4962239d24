"""Optimizers that torch does not have, with torch's own interface."""

from replastic.optim.adam_o import AdamO
from replastic.optim.muon_adam import MuonAdam
from replastic.optim.psgd_kron import PsgdKron
from replastic.optim.upgd import UPGD

__all__ = ["UPGD", "AdamO", "MuonAdam", "PsgdKron"]
