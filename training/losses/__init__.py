"""The loss terms. A recipe names them in this order, and L adds them up in it."""

from training.losses import reid, gmn, distillation, msgr  # noqa: F401, I001
