"""The engine: one training loop for all methods, and the run folder that it fills."""
