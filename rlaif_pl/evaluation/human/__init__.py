"""Responses are ranked by people or models who do not know who wrote them; what their ranks say.

::

    tasks           what is ranked: one response of each of several policies to a prompt
    order           the order in which a rater sees them; ranks by place and by item
    records         who ranks (people, or models; never counted together), and one rating
    schema, store   one SQLite file of tasks and ratings, each committed at once
    app, server     the page and what it fetches (FastAPI, uvicorn: pip install 'rlaif_pl[rating]')
    exchange        tasks and readings as JSONL, without a server
    ranked          tasks with what raters of one kind said of them, also as preferences
    win_rates       win rates by raters, and by judges on the same responses
    acceptable      share of acceptable texts by policy, and paired differences
    agreement       of raters with each other, of judges with raters
    raters          what each rater did, and kappas of every two
    findings        all of that, by kind of rater
    tables          tables, plot, numbers and files
"""
