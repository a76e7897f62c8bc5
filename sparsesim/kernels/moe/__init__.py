"""Mixture-of-experts layer: routing, permutation, grouped GEMM and combine."""
