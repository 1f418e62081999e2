"""Differentiable stand-ins for weights and layer inputs, and the gradient estimators they are trained with."""
