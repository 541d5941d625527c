"""Labels through a real vLLM server beside those of this process; see ``make server-test``."""

import itertools
import threading

import pytest

from rlaif_pl.cli import main as cli
from rlaif_pl.data.preferences import write_preferences
from rlaif_pl.data.sources import load_preferences
from rlaif_pl.labeling import (
    ConstitutionLabeler,
    EndpointBackend,
    FreeFormLabeler,
    LikelihoodLabeler,
    ListwiseLabeler,
    LocalBackend,
    PairwiseLabeler,
    RubricLabeler,
    ScoreLabeler,
)
from rlaif_pl.labeling.backends.endpoint_errors import EndpointError
from rlaif_pl.labeling.backends.endpoint_http import Retries
from rlaif_pl.labeling.prompting.verdicts import ChainOfThought
from rlaif_pl.labeling.strategies.likelihood_terms import WeightedTerm
from rlaif_pl.models.embedded import embedded_model_folder

pytestmark = [pytest.mark.server, pytest.mark.slow]

TOLERANCE = 1e-3  # of a label: both compute in float32
# Verdicts of several tokens, "(A)": a server also counts "A),", which begins so; this process does not.
LOOSE = {"constitution": 0.05}
LABELERS = {
    "pairwise": PairwiseLabeler,
    "one exemplar": lambda backend: PairwiseLabeler(backend, shots=1),
    "chat": lambda backend: PairwiseLabeler(backend, chat_template=True),
    "chain of thought": lambda backend: PairwiseLabeler(backend, cot=ChainOfThought(max_tokens=16)),
    "tie": lambda backend: PairwiseLabeler(backend, tie=True),
    "score": ScoreLabeler,
    "rubric": RubricLabeler,
    "constitution": ConstitutionLabeler,
    "likelihood": lambda backend: LikelihoodLabeler(
        backend, terms=[WeightedTerm("reconstruction"), WeightedTerm("likelihood", 0.25)]
    ),
    "listwise": ListwiseLabeler,
    "free form": FreeFormLabeler,
}


@pytest.fixture(scope="module")
def judge(start_real_server):
    """Start a server of the embedded model, which takes no adapters: those end it with echo."""
    return start_real_server(str(embedded_model_folder()), adapters=False)


@pytest.fixture(scope="module")
def local():
    return LocalBackend("smollm2-135m", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def pairs():
    return load_preferences("tiny_tldr/pairs").rows[:4]


def endpoint(server, **options):
    own = {"chat_assistant_prefix": "assistant", "retries": Retries(timeout=300.0)} | options
    return EndpointBackend(f"{server.url}/v1", "served", **own)


@pytest.mark.parametrize("name", LABELERS)
def test_labels_are_those_of_this_process(name, judge, local, pairs):
    theirs = LABELERS[name](endpoint(judge)).label(pairs)
    ours = LABELERS[name](local).label(pairs)
    for one, other in zip(theirs, ours, strict=True):
        within = LOOSE.get(name, TOLERANCE)
        assert one.p_first == pytest.approx(other.p_first, abs=within)  # None where both failed
    if name not in ("listwise", "free form"):  # the model writes no verdicts of its own
        assert all(row.p_first is not None for row in theirs)


def test_a_server_that_is_too_slow_is_named(judge, pairs):
    slow = endpoint(judge, retries=Retries(max_retries=0, timeout=0.005))
    with pytest.raises(EndpointError, match=r"Cannot reach .* \(no answer in 0.005 s\)"):
        PairwiseLabeler(slow).label(pairs[:1])


def test_a_job_whose_server_dies_goes_on_with_the_next(start_real_server, pairs, tmp_path, capsys):
    server = start_real_server(str(embedded_model_folder()), adapters=False)
    many = load_preferences("tiny_tldr/pairs").rows[:40]
    write_preferences(tmp_path / "pairs.jsonl", many)

    def words(url):
        backend = "labeler.backend"
        return [
            *("label", "--pairs", str(tmp_path / "pairs.jsonl"), "--out", str(tmp_path / "out")),
            "--labeler=rlaif_pl.labeling.PairwiseLabeler",
            f"--{backend}=rlaif_pl.labeling.EndpointBackend",
            *(f"--{backend}.base_url={url}/v1", f"--{backend}.model=served"),
            *(f"--{backend}.retries.max_retries=1", f"--{backend}.concurrency=2"),
        ]

    threading.Timer(8.0, server.stop).start()  # a fifth of the job is done by then, or more
    assert cli.main(words(server.url)) == 1
    assert server.url in capsys.readouterr().err
    after = start_real_server(str(embedded_model_folder()), adapters=False)
    assert cli.main(words(after.url)) == 0
    labeled = load_preferences(str(tmp_path / "out" / "labeled.jsonl")).rows
    direct = PairwiseLabeler(endpoint(after)).label(many)
    for one, other in itertools.zip_longest(labeled, direct):
        assert one.p_first == pytest.approx(other.p_first, abs=TOLERANCE)
