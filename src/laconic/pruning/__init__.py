"""Pruning: coupling of dimensions, criteria, allocation, surgery and the proof that nothing else changed."""
