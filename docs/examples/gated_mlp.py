"""A gated MLP: out = fc2 · (silu(gate · x) * (fc1 · x)) (Shazeer 2020)."""

import torch.nn.functional as F

from nanochat.scalar import minigpt
from nanochat.scalar.functions import linear
from nanochat.tensor import model


def parameters(config):
    """Return the new matrices: a gate per layer, as large as fc1."""
    size = (4 * config.n_embd, config.n_embd)
    return {f"layer{layer}.mlp_gate": size for layer in range(config.n_layer)}


class ScalarBlock(minigpt.Block):
    def mlp(self, x):
        see, weights = self.see, self.weights
        x = see("mlp.norm", x)
        gate = see("mlp.gate", linear(x, weights["mlp_gate"]))
        hidden = see("mlp.hidden", linear(x, weights["mlp_fc1"]))
        opened = [g / (1 + (-g).exp()) * h for g, h in zip(gate, hidden, strict=True)]
        active = see("mlp.active", opened)
        return see("mlp.out", linear(active, weights["mlp_fc2"]))


class ScalarModel(minigpt.MiniGPT):
    block = ScalarBlock


class TensorBlock(model.Block):
    def mlp(self, x, inputs):
        see, weights = self.see, self.weights
        x = see("mlp.norm", x)
        gate = see("mlp.gate", model.linear(x, weights["mlp_gate"]))
        hidden = see("mlp.hidden", model.linear(x, weights["mlp_fc1"]))
        active = see("mlp.active", F.silu(gate) * hidden)
        out = see("mlp.out", model.linear(active, weights["mlp_fc2"]))
        return model.dropout(out, inputs, place=2 + 2 * self.layer)


class TensorModel(model.MiniGPT):
    block = TensorBlock
