"""Measurements that tell whether to believe a run."""
