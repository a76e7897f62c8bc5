"""What all kernels and their benchmarks share: requirement checks, timing, energy windows, provenance."""
