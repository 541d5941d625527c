"""Comparisons of whole systems, as the paper makes them: tables, plots and what they can tell."""
