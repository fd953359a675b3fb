"""Exact recursions of a finite-state Markov chain, for many prompts at once: one file per array library.

`sequences.py` lays out what was observed, for all of them.

Pure array code: knows nothing of models, histories or fitting.
"""
