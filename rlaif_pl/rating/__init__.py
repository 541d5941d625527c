"""People rank responses without knowing who wrote them; what their ranks say.

::

    tasks           what is ranked: one response of each of several policies to a prompt
    order           the order in which a person sees them
    store           one SQLite file of tasks and ratings, each committed at once
    app, server     the page and what it fetches (FastAPI, uvicorn: pip install 'rlaif_pl[rating]')
    ranked          tasks with what people said of them
    win_rates       win rates by people, and by judges on the same responses
    agreement       of people with each other, of judges with people
    raters          what each person did
    pairs           ratings as preferences that a reward model can be trained on
    report          tables, plot, numbers and files
"""
