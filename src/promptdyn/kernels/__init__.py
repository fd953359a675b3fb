"""Exact recursions of a finite-state Markov chain for many prompts at once, one file per array library.

`sequences.py` lays out the observations for all of them. This room is pure array code and knows nothing of models,
histories or fitting.
"""
