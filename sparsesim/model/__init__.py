"""Models as layers of blocks: what they store, and the kernels a step of them launches."""

from sparsesim.model.arch import Batch, Chunk, LayerGroup, Model
from sparsesim.model.blocks import Block
from sparsesim.model.setting import Precision, Setting
from sparsesim.model.zoo import load_model, model_names

__all__ = ["Batch", "Block", "Chunk", "LayerGroup", "Model", "Precision", "Setting", "load_model", "model_names"]
