"""What became of harmful requests; prompts and responses are counted here, never shown.

::

    rates           share of responses found harmless, before and after training; table and plot
    rounds          what each round of critique and revision did, by judges measured themselves
"""
