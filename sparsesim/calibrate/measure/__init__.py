"""Measuring kernels on a real GPU: suites of rows in, CSV tables with provenance out.

    suite (TOML) -> rows (an op's columns) -> runner (buffers, correctness check) -> bench (time, energy) -> table

Runs straight from a checkout on a machine that has torch, triton, numpy and pynvml and nothing else:
`python -m sparsesim.calibrate.measure --suite gemm --out DIR`. The protocol is in `calibration/README.md`.
"""
