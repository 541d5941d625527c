"""Configs of commands, damaged in any way: parsed, or a sentence that names the file or the key."""

import copy
from pathlib import Path

import pytest
import yaml
from fuzzed import inputs
from hypothesis import given
from hypothesis import strategies as st

import rlaif_pl
from rlaif_pl.cli import main as cli

CONFIGS = Path(rlaif_pl.__file__).parents[1] / "configs" / "quickstart"
FITS = ("sft.yaml", "reward.yaml", "a2c.yaml")
FUNCTIONS = (("label", "label.yaml"), ("sample", "sample.yaml"))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(
        ["1e3", "auto", "null", "${x}", "../up", "rlaif_pl.models.RewardModel", "os.x"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(
            st.one_of(st.sampled_from(["class_path", "init_args", "name"]), SCALARS),
            inner,
            max_size=2,
        ),
    ),
    max_leaves=4,
)
CHANGES = st.tuples(
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(["drop", "rename", "set", "list", "nest", "swap"]),
    VALUES,
)
ENCODINGS = st.sampled_from(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-32", "latin-1"])
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1), st.sampled_from(["drop", "flip", "cut", "put"]), st.binary(max_size=3)
    ),
    max_size=2,
)


def places(content, inside=()):
    """Return all keys of a config, as paths."""
    found = []
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        found.append((*inside, key))
        if isinstance(value, dict | list):
            found += places(value, (*inside, key))
    return found


def changed(content, share, kind, value):
    """Change one key of a config; returns the config and the key."""
    content = copy.deepcopy(content)
    found = places(content)
    *above, key = found[int(share * len(found))]
    parent = content
    for each in above:
        parent = parent[each]
    if kind == "drop":
        del parent[key]
    elif kind == "rename" and isinstance(parent, dict):
        parent[f"{key}x"] = parent.pop(key)
    elif kind == "list":
        parent[key] = [parent[key], value]
    elif kind == "nest":
        parent[key] = {"class_path" if value is None else str(value): parent[key]}
    elif kind == "swap" and isinstance(parent, dict):
        parent[key] = list(parent)
    else:
        parent[key] = value
    return content


def damaged(data: bytes, edits) -> bytes:
    for share, kind, extra in edits:
        place = int(share * len(data))
        head, tail = data[:place], data[place:]
        data = {
            "drop": head + tail[5:],
            "flip": head + bytes(byte ^ 16 for byte in tail[:1]) + tail[1:],
            "cut": head,
            "put": head + extra + tail,
        }[kind]
    return data


def check(capsys, command, file):
    """Parse a config with a command; it is printed, or refused by a sentence."""
    capsys.readouterr()
    try:
        code = cli.main([*command.split(), "--config", str(file), "--print_config"])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert code in (0, 1, 2), code
    assert "Traceback" not in out + err
    if code:
        said = err.splitlines()
        assert said[0].startswith("error: "), err
        assert len(said) <= 4, err
        assert len(said[0]) < 2000, err
        key = [part for path in places(loaded(file)) for part in path if isinstance(part, str)]
        numbers = [part for path in places(loaded(file)) for part in path]
        is_named = any(part in said[0] for part in key)
        is_named |= any(f"got {part!r}; put it in quotes" in said[0] for part in numbers)
        assert str(file) in err or is_named, err


def loaded(file):
    """Return what a config holds, if it can be told."""
    try:
        content = yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@pytest.mark.filterwarnings("ignore")
@inputs(4)
@given(
    name=st.sampled_from(FITS), changes=st.lists(CHANGES, min_size=1, max_size=2), encoding=ENCODINGS,
    edits=st.one_of(st.just([]), EDITS),
)  # fmt: skip
def test_configs_of_fit(tmp_path, capsys, name, changes, encoding, edits):
    content = yaml.safe_load((CONFIGS / name).read_text())
    file = tmp_path / "fit.yaml"
    write(file, content, changes, encoding, edits)
    check(capsys, "fit", file)


@pytest.mark.filterwarnings("ignore")
@inputs(16)
@given(
    case=st.sampled_from(FUNCTIONS), changes=st.lists(CHANGES, min_size=1, max_size=2),
    encoding=ENCODINGS, edits=st.one_of(st.just([]), EDITS),
)  # fmt: skip
def test_configs_of_commands(tmp_path, capsys, case, changes, encoding, edits):
    command, name = case
    content = yaml.safe_load((CONFIGS / name).read_text())
    file = tmp_path / "command.yaml"
    write(file, content, changes, encoding, edits)
    check(capsys, command, file)


def write(file, content, changes, encoding, edits):
    for change in changes:
        if content:
            content = changed(content, *change)
    text = yaml.safe_dump(content, allow_unicode=encoding != "latin-1")
    file.write_bytes(damaged(text.encode(encoding, "surrogatepass"), edits))
