"""Weights: where they live, how they are seen as batches of matrices, which are chosen, and the one writer."""
