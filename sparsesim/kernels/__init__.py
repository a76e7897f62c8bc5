"""Real sparse kernels, each with a plain PyTorch reference beside it.

They import only torch, triton, numpy, the standard library and ``sparsesim.laws``: a machine with a GPU has
those and often nothing else.
"""
