"""Whole methods over the parts below: loops that no single module or labeler is."""
