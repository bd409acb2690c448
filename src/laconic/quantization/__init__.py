"""Quantization: schemes, observers, placement by target; static, dynamic, in training, mixed."""
