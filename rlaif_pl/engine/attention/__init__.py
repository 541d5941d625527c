"""Packed attention: ``leaf`` (runs of queries to runs of keys), ``padding``, ``segments`` (batches)."""
