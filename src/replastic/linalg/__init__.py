"""Tensors in, tensors out: polar factors, measures of isometry, spectra and ranks. Knows no layers and no models."""
