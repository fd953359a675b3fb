"""Loops of SVI and NUTS, one file per backend, which an engine's `loop` imports when it is needed."""
