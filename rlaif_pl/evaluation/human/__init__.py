"""Responses are ranked by people or models who do not know who wrote them; what their ranks say.

::

    tasks           what is ranked: one response of each of several policies to a prompt
    records         who ranks (people, or models; never counted together), in which order, one rating
    store           one SQLite file of tasks and ratings, each committed at once
    answers         what a rater may say, over HTTP and by file
    app, server     the page and what it fetches (FastAPI, uvicorn: pip install 'rlaif_pl[rating]')
    exchange        tasks and readings as JSONL, without a server
    win_rates       tasks with what raters said, also as preferences; win rates by them and by judges
    agreement       of raters with each other, of judges with raters; what each rater did
    findings        all of that, by kind of rater, with shares of acceptable texts
    tables          tables, plot, numbers and files
"""
