from hypothesis import given
from hypothesis import strategies as st

from rlaif_pl.engine.prefix_tree import Text, common_start, grow, pack_trees


def tree_of(rows, shareable=None, least=1):
    texts = [
        Text(tuple(row), len(row) - 1 if shareable is None else shareable[n])
        for n, row in enumerate(rows)
    ]
    return grow(texts, sorted(range(len(rows)), key=lambda n: texts[n].ids), least=least)


def shape(nodes):
    return [("".join(map(chr, node.ids)), shape(node.children)) for node in nodes]


def words(*texts):
    return [[ord(letter) for letter in text] for text in texts]


def test_a_tree_by_hand():
    # All begin with "ab"; the first two go on with "c"; "x" is alone.
    found = tree_of(words("abcd", "abce", "abf", "x"))
    assert shape(found) == [("ab", [("c", [("d", []), ("e", [])]), ("f", [])]), ("x", [])]
    assert [node.num_tokens() for node in found] == [6, 1]
    assert pack_trees(found, "cpu").batch.longest == 4


def test_short_beginnings_are_not_worth_a_node():
    assert shape(tree_of(words("abcd", "abce", "abf"), least=3)) == [
        ("abc", [("d", []), ("e", [])]),
        ("abf", []),
    ]


def test_the_last_tokens_of_a_row_stay_its_own():
    # The second row may share one token only, since the states of the others are wanted.
    assert shape(tree_of(words("abcd", "abce"), shareable=[3, 1])) == [
        ("a", [("bcd", []), ("bce", [])])
    ]


def test_packed_trees_by_hand():
    packed = pack_trees(tree_of(words("abcd", "abce", "abf", "x")), "cpu")
    assert "".join(map(chr, packed.ids.tolist())) == "abxcfde"
    assert packed.batch.positions.tolist() == [0, 1, 0, 2, 2, 3, 3]
    assert [(n.members[0], start) for n, start in packed.leaves] == [(3, 2), (2, 4), (0, 5), (1, 6)]


def test_carried_leaves_bring_every_row_to_the_last_level():
    trees = tree_of(words("abcd", "abce", "abf", "x"))
    packed = pack_trees(trees, "cpu", to_the_end=True)
    assert packed.rows == [0, 1, 2, 3]
    assert [segment.length for segment in packed.batch.levels[-1]] == [1, 1, 0, 0]
    assert packed.batch.ends == [4, 4, 3, 1]


ROWS = st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=9), min_size=1, max_size=12)


@given(ROWS, st.integers(1, 4))
def test_every_row_can_be_read_off_its_branch(rows, least):
    rows = [list(row) for row in dict.fromkeys(map(tuple, rows))]

    def branches(nodes, before=()):
        for node in nodes:
            assert node.start == len(before)
            text = (*before, *node.ids)
            assert node.ids
            if node.children:
                assert len(node.ids) >= least
                assert len(node.children) > 1
                yield from branches(node.children, text)
            else:
                yield node.members[0], text

    trees = tree_of(rows, least=least)
    assert dict(branches(trees)) == {n: tuple(row) for n, row in enumerate(rows)}
    assert sum(tree.num_tokens() for tree in trees) <= sum(map(len, rows))


def test_rows_begin_alike_by_hand():
    assert common_start([1, 2, 3], [1, 2, 4]) == 2
    assert common_start([1, 2], [1, 2, 4]) == 2
    assert common_start([], [1]) == 0
