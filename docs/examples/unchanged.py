"""The built-in model as a model file: to start from, and to compare others with."""

from nanochat.scalar.minigpt import MiniGPT as ScalarModel
from nanochat.tensor.model import MiniGPT as TensorModel

__all__ = ["ScalarModel", "TensorModel"]
