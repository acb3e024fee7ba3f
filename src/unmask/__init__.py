"""Masked image modelling on your own images: pre-train, evaluate, export."""

__version__ = "0.1.0"
