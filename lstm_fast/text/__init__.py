"""Texts with a class each, from wherever they come: reading, encoding, batches, models, training, prediction."""
