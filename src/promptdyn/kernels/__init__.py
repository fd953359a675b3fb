"""Exact recursions of a finite-state Markov chain, for many prompts at once: one file per array library.

Pure array code: knows nothing of models, histories or fitting.
"""
