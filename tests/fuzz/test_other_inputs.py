"""Configs, answers of servers, op arguments and the package's own files: a value or a sentence."""

import json
import os
import shutil

import pytest
import torch
import yaml
from fuzzed import inputs, value_or_sentence
from hypothesis import assume, given
from hypothesis import strategies as st

from rlaif_pl import ops
from rlaif_pl.data.csv_rows import read_table
from rlaif_pl.data.label_store import LabelStore
from rlaif_pl.labeling.backends.endpoint_body import parse_body
from rlaif_pl.labeling.backends.endpoint_errors import BodyError
from rlaif_pl.labeling.usage.reply_store import ReplyStore
from rlaif_pl.pipeline.experiment import load_experiment
from rlaif_pl.pipeline.yaml_files import read_yaml
from rlaif_pl.reporting import write_report
from rlaif_pl.training.checkpoints import read_checkpoint, write_checkpoint
from rlaif_pl.types import Preference

WORDS = st.sampled_from(
    ["sft", "fit", "a", "${out}", "${x}", "../up", "", "1e3", "tiny_tldr/train"]
)
SCALARS = st.one_of(
    WORDS,
    st.text(max_size=5),
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.just(-9999.0),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(WORDS, SCALARS), inner, max_size=3)
    ),
    max_leaves=5,
)
STAGE_KEYS = ("name", "command", "config", "set", "needs", "produces", "more")
STAGES = st.fixed_dictionaries(
    {
        "name": st.one_of(WORDS, VALUES),
        "command": st.one_of(st.sampled_from(["fit", "label"]), VALUES),
    },
    optional=dict.fromkeys(STAGE_KEYS[2:], VALUES),
)
EXPERIMENTS = st.fixed_dictionaries(
    {"stages": st.one_of(st.lists(STAGES, max_size=3), VALUES)},
    optional=dict.fromkeys(("name", "out", "seed", "device", "expect", "other"), VALUES),
)


@inputs(60)
@given(content=EXPERIMENTS)
def test_experiments(tmp_path, content):
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=False))
    # a key of the file, where it is not the file itself
    names = (str(path), "stage", "device", "seed", "placeholder", "produces", "needs", "key")
    value_or_sentence(load_experiment, path, names=names)
    assert os.listdir(tmp_path) == ["experiment.yaml"]


@inputs(20)
@given(data=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
def test_yaml_of_any_bytes(tmp_path, data):
    path = tmp_path / "any.yaml"
    path.write_bytes(data)
    value_or_sentence(read_yaml, path, names=(str(path),))


ANSWER_KEYS = ("choices", "usage", "message", "text", "logprobs", "error", "finish_reason", "index")
NESTED = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(
            st.sampled_from(
                (*ANSWER_KEYS, "content", "tokens", "token_logprobs", "top_logprobs", "token",
                 "logprob", "bytes", "prompt_tokens", "completion_tokens", "code", "refusal")
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=10,
)  # fmt: skip
CHOICE = st.dictionaries(st.sampled_from(ANSWER_KEYS[2:]), NESTED, max_size=4)
BODIES = st.one_of(
    st.fixed_dictionaries({"choices": st.lists(CHOICE, max_size=2)}, optional={"usage": NESTED}),
    NESTED,
)


@inputs(40)
@given(body=BODIES, cut=st.integers(0, 30))
def test_answers_of_servers(body, cut):
    text = json.dumps(body)
    said = "an answer"
    try:
        parse_body(text[: len(text) - cut] if cut % 3 == 0 else text)
    except BodyError as error:  # the client makes them failures of the call
        said = str(error)
    assert said


def tensors(shape):
    """Return tensors of a shape, with what may go wrong in one."""
    numbers = st.sampled_from([0.0, 1.0, -1.0, float("nan"), float("inf"), 1e30])
    kinds = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
    return st.builds(
        lambda size, kind, number: torch.full(
            size, number if kind.is_floating_point else 1, dtype=kind
        ),
        shape,
        kinds,
        numbers,
    )


SHAPES = st.sampled_from([(2, 3), (2, 3), (2, 3), (2,), (3, 2), (0, 3), (2, 0), (), (1, 2, 3)])
ROWS = st.sampled_from([(2,), (2,), (3,), (0,), (), (2, 1)])
NUMBERS = st.one_of(st.floats(0, 1), st.floats(), st.integers(-2, 2))


@inputs(25)
@given(
    rewards=tensors(SHAPES),
    values=tensors(SHAPES),
    lengths=st.one_of(st.none(), st.lists(st.integers(-1, 4), max_size=3).map(torch.tensor)),
    bootstrap=st.one_of(st.none(), tensors(ROWS)),
    gamma=NUMBERS,
    gae_lambda=NUMBERS,
)
def test_arguments_of_gae(rewards, values, lengths, bootstrap, gamma, gae_lambda):
    options = {"lengths": lengths, "bootstrap": bootstrap, "gamma": gamma, "gae_lambda": gae_lambda}
    value_or_sentence(lambda: ops.gae(rewards, values, **options), names=("gae:",))


@inputs(20)
@given(
    first=tensors(ROWS),
    second=tensors(ROWS),
    target=tensors(ROWS),
    weight=st.one_of(st.none(), tensors(ROWS)),
    reduction=st.sampled_from(["mean", "sum", "none", "all"]),
)
def test_arguments_of_pairwise_ce(first, second, target, weight, reduction):
    options = {"weight": weight, "reduction": reduction}
    value_or_sentence(
        lambda: ops.pairwise_ce(first, second, target, **options), names=("pairwise_ce",)
    )


@inputs(20)
@given(
    hidden=tensors(SHAPES),
    weight=tensors(st.sampled_from([(5, 3), (5, 3), (3, 5), (0, 3), (5,)])),
    tokens=st.lists(st.integers(-1, 6), max_size=3).map(torch.tensor),
    temperature=NUMBERS,
)
def test_arguments_of_linear_logprob(hidden, weight, tokens, temperature):
    value_or_sentence(
        lambda: ops.linear_logprob(hidden, weight, tokens, temperature=temperature),
        names=("linear_logprob",),
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return the package's own files, whole: bytes by kind."""
    folder = tmp_path_factory.mktemp("files")
    write_checkpoint(
        {"state_dict": {"w": torch.ones(9)}, "pytorch-lightning_version": "2"}, folder / "c"
    )
    with LabelStore(folder / "labels") as store:
        store.put("m", [Preference("p", "a", "b", "g", p_first=0.5)])
    ReplyStore(folder / "replies").close()
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stored(kind):
    def read(path):
        with kind(path) as store:
            return len(store)

    return read


READERS = {"c": read_checkpoint, "labels": stored(LabelStore), "replies": stored(ReplyStore)}


@inputs(45)
@given(
    kind=st.sampled_from(sorted(READERS)),
    place=st.floats(0, 1),
    change=st.sampled_from(["cut", "flip", "zero"]),
)
@pytest.mark.filterwarnings("ignore:.*no checksum")
def test_files_of_the_package(tmp_path, files, kind, place, change):
    path = tmp_path / "file.ckpt"
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    data = files[kind]
    at = int(place * len(data))
    damaged = {
        "cut": data[:at],
        "flip": data[:at] + bytes(byte ^ 1 for byte in data[at : at + 1]) + data[at + 1 :],
        "zero": data[:at] + bytes(len(data[at : at + 64])) + data[at + 64 :],
    }[change]
    assume(damaged != data or kind == "c")
    path.write_bytes(damaged)
    result = value_or_sentence(READERS[kind], path, names=(str(path),))
    if kind == "c" and damaged != data:
        assert isinstance(result, ValueError)


CELLS = st.one_of(
    st.text(max_size=10),
    st.sampled_from(
        ["<script>alert(1)</script>", "$\\frac$", "a/b", "nan", "1e999", "-->", "\r\n"]
    ),
)


@inputs(10)
@given(
    history=st.lists(st.lists(CELLS, min_size=2, max_size=3), max_size=4),
    metrics=st.dictionaries(CELLS, st.one_of(st.floats(), SCALARS), max_size=3),
    results=st.text(alphabet="|-* \n!()[]ab:", max_size=40),
)
def test_a_report_of_any_files(tmp_path, history, metrics, results):
    folder = tmp_path / "run" / "a2c"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "done.json").write_text(json.dumps({"command": metrics, "seconds": "x", "time": 1}))
    rows = [["step", "<b>$x</b>"], *history, ["1", "2.5"], ["2", "2.75"]]
    lines = [",".join(f'"{cell}"' for cell in row) for row in rows]
    (folder / "history.csv").write_bytes("\n".join(lines).encode(errors="surrogatepass"))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "results.md").write_text(results)
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>" not in page
    value_or_sentence(read_table, folder / "history.csv", names=("history.csv",))
