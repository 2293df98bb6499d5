"""Training one model by several processes, each on its part of every batch, over what the backend has for it."""
