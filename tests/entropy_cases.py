"""What the tests of entropies share."""

import torch
from factory import tensors


def function_of_finite_terms(inputs, call):
    """A function of every term, and its arguments; -inf entries are put back inside, unmoved."""
    leaves = tensors(inputs)
    forbidden = {name: x == -torch.inf for name, x in leaves.items()}
    arguments = [x.masked_fill(forbidden[n], 0.0).requires_grad_() for n, x in leaves.items()]

    def function(*values):
        named = {
            name: torch.where(forbidden[name], -torch.inf, x)
            for name, x in zip(leaves, values, strict=True)
        }
        return call({**named, "lengths": inputs["lengths"]})

    return function, tuple(arguments)
