"""Loops of SVI and NUTS in each backend: one file per backend, loaded when an engine's `loop` asks for it."""
