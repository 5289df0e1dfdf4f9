import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stylekit.errors import DataError
from stylekit.metrics.pictures import read_pictures, worst_pictures, write_pictures

NAN = float("nan")


def test_each_of_the_worst_is_worst_in_something_that_is_named():
    figures = {
        "id_centred/net@1": np.array([0.9, 0.1, 0.8, 0.7, 0.6, 0.5]),
        "artefact_eyes": np.array([0.0, 0.0, 3.0, 0.0, 0.0, NAN]),
        "artefact_mouth": np.zeros(6),
        "content": np.array([0.1, 0.2, 0.3, 0.9, 0.25, 0.35]),
        "colour_shift": np.array([99.0, 0, 0, 0, 0, 0]),  # no judge
    }
    found = worst_pictures(figures, 4)
    assert {each.index for each in found[:3]} == {1, 2, 3}
    assert [each.badness for each in found] == [1, 1, 1, 0.8]
    reasons = {each.index: each.reasons for each in found}
    assert reasons[1] == ["likeness 0.10 (median 0.65)"]
    assert reasons[2] == ["faults in the eyes 3.00 (median 0.00)"]
    assert reasons[3] == ["lost content 0.90 (median 0.28)"]
    assert reasons[5][0] == "likeness 0.50 (median 0.65)"


def test_the_leading_network_judges_and_equal_pictures_are_none_the_worse():
    leading, other = np.array([0.5, 0.9]), np.array([0.9, 0.5])
    assert worst_pictures({"id_centred/a": leading, "id_centred/b": other}, 1)[0].index == 0
    assert worst_pictures({"content": np.ones(5)})[0].badness == 0
    assert worst_pictures({"colour_shift": np.ones(5)}) == []


@settings(max_examples=25, deadline=None)
@given(
    arrays.arrays(np.float64, (3, 2), elements=st.floats(-1e6, 1e6) | st.just(NAN)),
    st.lists(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\0"), min_size=1), min_size=3, max_size=3),
)
def test_a_table_reads_back(tmp_path_factory, values, names):
    path = tmp_path_factory.mktemp("table") / "eval_pictures.csv"
    figures = {"content": values[:, 0], "id_centred/x@y": values[:, 1]}
    write_pictures(path, names, names[::-1], figures)
    table = read_pictures(path)
    assert (table.files, table.persons, list(table.figures)) == (names, names[::-1], list(figures))
    for name, column in figures.items():
        assert np.allclose(table.figures[name], column, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("text", ["", "a,b\n", "file,person,x\na,b\n", "file,person,x\na,b,c\n"])
def test_another_table_is_refused_by_name(tmp_path, text):
    path = tmp_path / "eval_pictures.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"eval_pictures\.csv is not a table of pictures.*stylekit eval"):
        read_pictures(path)
    with pytest.raises(DataError, match="Cannot read"):
        read_pictures(tmp_path / "none.csv")
