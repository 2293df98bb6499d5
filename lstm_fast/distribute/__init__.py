"""Trains one model by several processes, each on its part of every batch. The backend connects the processes."""
