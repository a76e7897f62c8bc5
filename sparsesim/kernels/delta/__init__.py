"""Threshold sparsification of activations and the GEMV that skips what it zeroed."""
