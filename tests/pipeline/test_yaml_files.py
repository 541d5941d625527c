import pytest

from rlaif_pl.pipeline.yaml_files import dump_yaml, flatten, overlay, read_yaml


def write(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    return path


def test_exponents_without_a_point_are_numbers_as_jsonargparse_reads_them(tmp_path):
    assert read_yaml(write(tmp_path, "a: 1e-4\nb: '1e-4'\nc: 1.5e3")) == {
        "a": 1e-4,
        "b": "1e-4",
        "c": 1500.0,
    }


def test_what_is_written_reads_back_the_same(tmp_path):
    content = {
        "a": 1e-5,
        "b": "1e-5",
        "c": [None, True, {"d": "${x}"}],
        "e": "yes",
        "f": float("inf"),
    }
    assert read_yaml(write(tmp_path, dump_yaml(content))) == content


def test_a_key_given_twice_is_refused_with_its_line(tmp_path):
    with pytest.raises(ValueError, match=r"line 3: the key 'a' is given twice"):
        read_yaml(write(tmp_path, "a: 1\nb: 2\na: 3\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1, 2]", "got list"), ("a: [", "not valid YAML"), ("[1]: 2", "not valid YAML")],
)
def test_other_than_a_mapping_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_yaml(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is none at .*nowhere\.yaml"):
        read_yaml(tmp_path / "nowhere.yaml")


def test_dotted_keys_reach_into_mappings_and_lists():
    content = {"a": {"b": 1}, "list": [{"x": 1}, 2], "empty": None}
    overlay(content, "a.c.d", 5)
    overlay(content, "list.0.x", 6)
    overlay(content, "list.1", 7)
    overlay(content, "empty.y", 8)
    assert content == {"a": {"b": 1, "c": {"d": 5}}, "list": [{"x": 6}, 7], "empty": {"y": 8}}


def test_a_plus_adds_to_a_list():
    content = {"a": {"list": [1]}}
    overlay(content, "a.list.+", {"b": 2})
    assert content == {"a": {"list": [1, {"b": 2}]}}


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("a.b.c", "cannot go below 'a.b', which is the value 1"),
        ("list.9", "list is a list of 1"),
        ("list.x.y", "expected a number below that in place of 'x'"),
    ],
)
def test_a_dotted_key_that_leads_nowhere_is_refused(key, message):
    with pytest.raises(ValueError, match=message):
        overlay({"a": {"b": 1}, "list": [1]}, key, 0)


def test_leaves_have_dotted_names():
    assert flatten({"a": {"b": [1, {"c": 2}]}, "d": []}) == {"a.b.0": 1, "a.b.1.c": 2, "d": []}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_line_ends_and_half_characters_change_nothing(tmp_path, encoding):
    text = 'name: ä\r\nsteps: 1e3\r\nshare: 1e0\r\nhalf: "\\ud83d"\r\nwhole: "\\ud83d\\ude00"\r\n'
    (tmp_path / "a.yaml").write_bytes(text.encode(encoding))
    whole = {"name": "ä", "steps": 1000, "share": 1.0, "half": "\ufffd", "whole": "\U0001f600"}
    assert read_yaml(tmp_path / "a.yaml") == whole


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"name: \xff\xe4\n")
    with pytest.raises(ValueError, match=r"a.yaml is not valid YAML"):
        read_yaml(tmp_path / "a.yaml")
