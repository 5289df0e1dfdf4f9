import pytest

from stylekit.errors import DataError
from stylekit.metrics.report import metric_name, read_report


def test_full_names_carry_network_resize_and_count():
    assert metric_name("fid", "tiny@224-bilinear", 16) == "fid/tiny@224-bilinear/n16"


@pytest.mark.parametrize("text", ["", "{}", '{"format_version": 2}', "[1, 2", "\xff"])
def test_a_damaged_report_is_refused_by_name(tmp_path, text):
    path = tmp_path / "eval.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"eval\.json is not an evaluation"):
        read_report(path)


def test_a_missing_report_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match=r"eval\.json.*stylekit eval"):
        read_report(tmp_path / "eval.json")
