"""The page and what it fetches: blind, guarded, and one rating whatever is sent twice."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from rlaif_pl.evaluation.human.app import PageOptions, build_app
from rlaif_pl.evaluation.human.store import RatingStore
from rlaif_pl.evaluation.human.tasks import read_samples

POLICIES = ("zebra", "yacht", "xenon")
HERE = "http://127.0.0.1:8000"


@pytest.fixture
def path(tmp_path, samples):
    read = read_samples(samples)
    with RatingStore(tmp_path / "r.sqlite") as store:
        store.begin(read.tasks, {"seed": "0", "policies": json.dumps(read.policies)})
    return tmp_path / "r.sqlite"


@pytest.fixture
def client(path):
    with TestClient(build_app(path, PageOptions("Which?")), base_url=HERE) as opened:
        yield opened


def ask(client, rater="ann"):
    return client.post("/api/next", json={"rater": rater}).json()


def answer(client, task, submission="s1", ranks=(1, 2, 3), **more):
    body = {"rater": "ann", "task": task["id"], "submission": submission, "ranks": ranks, **more}
    return client.post("/api/rating", json=body)


def test_no_answer_holds_the_name_of_a_policy(client):
    said = [
        client.get(place).text
        for place in ("/", "/part/marks.js", "/part/rate.js", "/part/rate.css")
    ]
    for number in range(12):
        task = ask(client)["task"]
        response = answer(client, task, f"s{number}")
        assert response.status_code == 200
        said += [response.text, str(response.headers)]
    undone = client.post("/api/undo", json={"rater": "ann", "submission": "s3"})
    failed = [answer(client, {"id": "x"}), answer(client, task, "y", (1, 1, 1)), client.get("/x")]
    said += [response.text for response in (undone, *failed)]
    assert [response.status_code for response in failed] == [404, 422, 404]
    assert len(said) == 32
    for text in said:
        assert not [name for name in POLICIES if name in text]


def test_raters_see_the_same_texts_in_orders_of_their_own(client):
    seen = {}
    for rater in ("ann", "bo", "cy", "dee"):
        for number in range(12):
            task = ask(client, rater)["task"]
            seen.setdefault(task["id"], []).append(tuple(task["texts"]))
            body = {"rater": rater, "task": task["id"], "submission": f"{rater}{number}"}
            client.post("/api/rating", json=body)
    assert {len(orders) for orders in seen.values()} == {4}
    assert all(len({frozenset(order) for order in orders}) == 1 for orders in seen.values())
    assert max(len(set(orders)) for orders in seen.values()) > 1
    tops = Counter(order[0].split()[0] for orders in seen.values() for order in orders)
    assert set(tops) == {"one", "two", "three"}


def test_ranks_are_kept_by_policy_with_the_order_that_was_shown(client, path):
    task = ask(client)["task"]
    answer(client, task, ranks=(2, 3, 1), seconds=4.5)
    with RatingStore(path) as store:
        (rating,) = store.ratings()
        items = store.tasks()[rating.task].items
    assert [items[n].text for n in rating.shown] == task["texts"]
    assert [rating.ranks[n] for n in rating.shown] == [2, 3, 1]
    assert rating.seconds == 4.5


def test_a_submission_sent_twice_counts_once(client):
    task = ask(client)["task"]
    first, second = answer(client, task), answer(client, task)
    assert (first.json()["is_new"], second.json()["is_new"]) == (True, False)
    assert first.json()["task"] == second.json()["task"] != task
    assert second.json()["progress"]["mine"] == second.json()["progress"]["done"] == 1
    assert answer(client, task, "s2").json()["is_new"] is False


def test_undo_brings_back_the_ranks_as_shown(client):
    task = ask(client)["task"]
    after = answer(client, task, ranks=(3, 1, 2)).json()
    assert after["progress"]["last"] == "s1"
    again = client.post("/api/undo", json={"rater": "ann", "submission": "s1"}).json()
    assert again["task"] == task | {"ranks": [3, 1, 2]}
    assert again["progress"]["mine"] == 0
    other = client.post("/api/undo", json={"rater": "bo", "submission": "s1"})
    assert other.status_code == 404


def test_the_page_runs_no_script_from_elsewhere(client):
    response = client.get("/")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "http" not in response.text
    assert "http" not in client.get("/part/rate.js").text.replace("plain http", "")
    assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 404


def test_markup_in_a_question_is_text(path):
    with TestClient(build_app(path, PageOptions("<b>?")), base_url=HERE) as client:
        assert "&lt;b&gt;?" in client.get("/").text


@pytest.mark.parametrize(
    "body",
    [{"rater": " "}, {"rater": "x" * 61}, {}, {"rater": "ann", "task": "t", "seconds": -1}],
)
def test_what_makes_no_sense_is_refused(body, client):
    path = "/api/rating" if "task" in body else "/api/next"
    assert client.post(path, json=body).status_code == 422


def test_other_host_names_are_refused_on_this_machine(path):
    with TestClient(build_app(path, PageOptions("?")), base_url="http://evil.example") as client:
        assert client.get("/").status_code == 400


def test_a_server_for_others_asks_for_its_token(path):
    options = PageOptions("?", host="0.0.0.0", token="key")
    with TestClient(build_app(path, options), base_url="http://box:8000") as client:
        assert client.get("/").status_code == 403
        assert client.get("/?token=wrong").status_code == 403
        assert client.get("/?token=key").status_code == 200
        assert client.post("/api/next", json={"rater": "ann"}).status_code == 403
        headers = {"X-Rating-Token": "key"}
        asked = client.post("/api/next", json={"rater": "ann"}, headers=headers)
        assert asked.json()["state"] == "task"


def test_many_raters_at_once_get_as_many_rankings_as_are_wanted(start, samples, tmp_path):
    server = start("--samples", str(samples), "--out", str(tmp_path / "out"))

    def work(rater):
        said = server.post("next", rater=rater)
        while said["task"]:
            key = said["task"]["id"]
            body = {"rater": rater, "task": key, "submission": f"{rater}{key}", "ranks": [1, 2, 3]}
            server.post("rating", **body)
            said = server.post("rating", **body)  # an impatient second click
        return said["state"]

    with ThreadPoolExecutor(5) as pool:
        states = list(pool.map(work, [f"rater {n}" for n in range(5)]))
    assert set(states) <= {"done", "waiting"}
    with RatingStore(tmp_path / "out" / "ratings.sqlite") as store:
        counts = Counter(rating.task for rating in store.ratings())
        assert len({(r.task, r.rater) for r in store.ratings()}) == 36
    assert list(counts.values()) == [3] * 12


@pytest.mark.parametrize("name", ["ada \\ud83d", "ada \\u0000", "<b>ada</b> \\u202e"])
def test_odd_characters_in_a_name_are_no_fault_of_the_server(client, name):
    body = f'{{"rater": "{name}"}}'
    response = client.post("/api/next", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 200
    assert client.post("/api/undo", content=body).status_code == 422  # quotes what it refuses


def undo(client, rater="ann", submission="s1"):
    return client.post("/api/undo", json={"rater": rater, "submission": submission}).json()


def test_what_is_acceptable_is_kept_by_policy_and_comes_back_with_an_undo(client, path):
    task = ask(client)["task"]
    said = [True, False, True]
    assert answer(client, task, acceptable=said).status_code == 200
    with RatingStore(path) as store:
        (rating,) = store.ratings()
    assert [rating.acceptable[n] for n in rating.shown] == said
    assert undo(client)["task"] == task | {"ranks": [1, 2, 3], "acceptable": said}
    with RatingStore(path) as store:
        assert store.ratings() == []
    answer(client, task, "s2")  # nothing said of it
    assert undo(client, submission="s2")["task"] == task | {"ranks": [1, 2, 3]}


@pytest.mark.parametrize(
    ("ranks", "acceptable"),
    [((1, 2, 3), [True]), ((1, 2, 3), [True] * 4), (None, [True] * 3), ((1, 2, 3), [1, 0, 1])],
)
def test_acceptable_is_of_every_text_or_refused(client, path, ranks, acceptable):
    task = ask(client)["task"]
    refused = answer(client, task, ranks=ranks, acceptable=acceptable)
    assert refused.status_code == 422
    if isinstance(acceptable[0], bool):
        assert "expected acceptable to be null or 3 values" in refused.json()["detail"]
    with RatingStore(path) as store:
        assert store.ratings() == []


def test_equal_ranks_are_taken_where_ties_are_allowed_only(client, path):
    task = ask(client)["task"]
    assert answer(client, task, ranks=(1, 1, 3)).status_code == 422
    with TestClient(build_app(path, PageOptions("?", ties=True)), base_url=HERE) as tying:
        assert ask(tying)["asks"] == {"question": "?", "acceptable": True, "ties": True}
        assert answer(tying, task, ranks=(1, 1, 4)).status_code == 422
        assert answer(tying, task, ranks=(2, 1, 1)).status_code == 200
    with RatingStore(path) as store:
        (rating,) = store.ratings()
    assert [rating.ranks[n] for n in rating.shown] == [3, 1, 1]  # the third, not the second


def test_the_page_asks_for_what_the_options_say(client, path):
    assert 'data-acceptable="yes" data-ties="no"' in client.get("/").text
    assert "No two are equal" in client.get("/").text
    options = PageOptions("?", acceptable=False, ties=True)
    with TestClient(build_app(path, options), base_url=HERE) as other:
        page = other.get("/").text
    assert 'data-acceptable="no" data-ties="yes"' in page
    assert 'id="equal"' in page
    assert "acceptable:" not in page
    assert 'id="rest"' not in page


def test_a_kind_is_declared_once(client):
    first = client.post("/api/next", json={"rater": "reader", "kind": "model"}).json()
    body = {"rater": "Reader", "task": first["task"]["id"], "submission": "m", "ranks": [1, 2, 3]}
    assert client.post("/api/rating", json=body).status_code == 200  # said before
    refused = client.post("/api/next", json={"rater": "reader", "kind": "person"})
    assert refused.status_code == 409
    assert "expected kind 'model' of the rater 'reader'" in refused.json()["detail"]
    assert client.post("/api/next", json={"rater": "x", "kind": "robot"}).status_code == 422
    ask(client, "bo")  # without a kind: a person
    assert client.post("/api/next", json={"rater": "bo", "kind": "model"}).status_code == 409


def test_models_take_no_prompt_away_from_people(path):
    options = PageOptions("?", raters_per_prompt=1)
    with TestClient(build_app(path, options), base_url=HERE) as client:
        said = client.post("/api/next", json={"rater": "reader", "kind": "model"}).json()
        count = 0
        while said["task"]:
            body = {"rater": "reader", "task": said["task"]["id"], "submission": f"m{count}"}
            said = client.post("/api/rating", json=body | {"ranks": [1, 2, 3]}).json()
            count += 1
        assert (said["state"], said["progress"]["done"]) == ("done", 12)
        begun = ask(client, "ann")
        assert (begun["state"], begun["progress"]["done"]) == ("task", 0)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Content-Type": "text/plain"},  # what a form of another page can send without asking
    ],
)
def test_another_page_can_rate_nothing(client, path, headers):
    task = ask(client)["task"]
    body = {"rater": "ann", "task": task["id"], "submission": "s1", "ranks": [1, 2, 3]}
    said = client.post(
        "/api/rating",
        content=json.dumps(body),
        headers={"Content-Type": "application/json"} | headers,
    )
    assert said.status_code in (403, 422)
    with RatingStore(path) as store:
        assert not list(store.ratings())
    own = {"Origin": HERE, "Sec-Fetch-Site": "same-origin"}
    assert client.post("/api/rating", json=body, headers=own).status_code == 200


def test_more_than_a_rating_is_not_read(client):
    assert client.post("/api/next", json={"rater": "a" * 2**16}).status_code == 413
    parts = iter([b'{"rater": ', b'"ann"}'])
    assert client.post("/api/next", content=parts).status_code == 411
