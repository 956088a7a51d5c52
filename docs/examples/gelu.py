"""GELU, in its tanh form, as the activation of the MLP (Hendrycks & Gimpel 2016)."""

import math

import torch.nn.functional as F

from nanochat.scalar import minigpt
from nanochat.tensor import model

SCALE = math.sqrt(2 / math.pi)


class ScalarBlock(minigpt.Block):
    def activation(self, x):
        return [0.5 * h * (1 + (SCALE * (h + 0.044715 * h**3)).tanh()) for h in x]


class ScalarModel(minigpt.MiniGPT):
    block = ScalarBlock


class TensorBlock(model.Block):
    def activation(self, x):
        return F.gelu(x, approximate="tanh")


class TensorModel(model.MiniGPT):
    block = TensorBlock
