"""Answers to questions about a run: folds over one pass of it, results as frozen dataclasses. Nothing here imports torch."""
