"""Weights: stores that hold them, views of them as batches of matrices, the choice of targets, and the one writer."""
