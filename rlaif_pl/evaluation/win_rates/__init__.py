"""Several policies on the same prompts, each against each, by several judges.

::

    measure     win rates with intervals, adjusted for their number; rewards as judges
    report      the matrix for the terminal, as Markdown, CSV, flat numbers and a heat map
"""
