"""Texts, each with a class, from any source: reading, encoding, batches, models, training, prediction."""
