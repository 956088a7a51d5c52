"""Oracle: microgpt's model, loss and Adam in plain Python over PlainValue, no numpy, no sum().

Python 3.12 made `sum()` of floats compensated. Every accumulation here is a loop from left to right
instead, and all Python versions give bit-identical results.
"""

from __future__ import annotations

from oracles.plain_value import PlainValue

Matrix = list[list[PlainValue]]
Vector = list[PlainValue]

N_HEAD = 4


def accumulate(values: Vector) -> PlainValue:
    total: PlainValue | int = 0
    for value in values:
        total = total + value
    return total


def linear(x: Vector, weight: Matrix) -> Vector:
    return [accumulate([w * xi for w, xi in zip(row, x, strict=True)]) for row in weight]


def softmax(logits: Vector) -> Vector:
    largest = max(logit.data for logit in logits)
    exps = [(logit - largest).exp() for logit in logits]
    total = accumulate(exps)
    return [e / total for e in exps]


def rmsnorm(x: Vector) -> Vector:
    mean_square = accumulate([xi * xi for xi in x]) / len(x)
    scale = (mean_square + 1e-5) ** -0.5
    return [xi * scale for xi in x]


def attention(q: Vector, keys: Matrix, values: Matrix) -> Vector:
    size = len(q) // N_HEAD
    mixed: Vector = []
    for start in range(0, len(q), size):
        columns = range(start, start + size)
        scores = [accumulate([q[j] * k[j] for j in columns]) / size**0.5 for k in keys]
        weights = softmax(scores)
        mixed += [
            accumulate([w * v[j] for w, v in zip(weights, values, strict=True)]) for j in columns
        ]
    return mixed


def document_loss(weights: dict[str, Matrix], inputs: list[int], targets: list[int]) -> PlainValue:
    """Return the mean nats of one document by the one-layer model of the microgpt preset."""
    keys: Matrix = []
    values: Matrix = []
    losses = []
    for position, (token, target) in enumerate(zip(inputs, targets, strict=True)):
        x = [a + b for a, b in zip(weights["wte"][token], weights["wpe"][position], strict=True)]
        x = rmsnorm(x)
        residual, x = x, rmsnorm(x)
        q = linear(x, weights["layer0.attn_wq"])
        keys.append(linear(x, weights["layer0.attn_wk"]))
        values.append(linear(x, weights["layer0.attn_wv"]))
        x = linear(attention(q, keys, values), weights["layer0.attn_wo"])
        x = [a + b for a, b in zip(x, residual, strict=True)]
        residual, x = x, rmsnorm(x)
        x = linear(
            [h.relu() for h in linear(x, weights["layer0.mlp_fc1"])], weights["layer0.mlp_fc2"]
        )
        x = [a + b for a, b in zip(x, residual, strict=True)]
        losses.append(-softmax(linear(x, weights["lm_head"]))[target].log())
    return (1 / len(losses)) * accumulate(losses)


class Adam:
    """microgpt's update in floats; it sets the gradients to zero."""

    def __init__(self, parameters: Vector, beta1: float, beta2: float, eps: float) -> None:
        self.parameters, self.beta1, self.beta2, self.eps = parameters, beta1, beta2, eps
        self.m = [0.0] * len(parameters)
        self.v = [0.0] * len(parameters)

    def step(self, step: int, lr: float) -> None:
        for i, p in enumerate(self.parameters):
            self.m[i] = self.beta1 * self.m[i] + (1 - self.beta1) * p.grad
            self.v[i] = self.beta2 * self.v[i] + (1 - self.beta2) * p.grad**2
            m_hat = self.m[i] / (1 - self.beta1 ** (step + 1))
            v_hat = self.v[i] / (1 - self.beta2 ** (step + 1))
            p.data -= lr * m_hat / (v_hat**0.5 + self.eps)
            p.grad = 0
