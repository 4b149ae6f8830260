"""Scores as pure functions: count(truth, pred) gives additive counts, score(counts) numbers."""
