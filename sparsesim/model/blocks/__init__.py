"""The blocks layers are made of, one class per file; a block's kind is its module's name."""

from sparsesim.model.blocks.base import Block

__all__ = ["Block"]
