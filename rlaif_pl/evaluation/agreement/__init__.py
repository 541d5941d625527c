"""Does a labeler agree with people.

::

    measure             one labeler on pairs judged by people, and the record of it
    gate                what follows: stop, or warn, before training on its labels
    table               several labelers on the same pairs, with paired differences
    table_text          that table for the terminal, as Markdown, CSV, JSON and flat numbers
    paper_tables        which labelers the tables of arXiv 2309.00267 ask
"""
