"""Labelers: each turns pairs into calls to a model and replies into judgments."""
