"""Reinforcement learning from AI feedback on PyTorch Lightning."""

__version__ = "0.1.0"
