import json

import pytest

from stylekit.errors import DataError
from stylekit.metrics.report import Conditions, EvalReport, MeasuredNetwork, metric_name, read_report, table


def test_full_names_carry_network_resize_and_count():
    assert metric_name("fid", "tiny@224-bilinear", 16) == "fid/tiny@224-bilinear/n16"
    assert metric_name("content", None, 16) == "content/n16"


@pytest.mark.parametrize("text", ["", "{}", '{"format_version": 2}', "[1, 2", "\xff"])
def test_a_damaged_report_is_refused_by_name(tmp_path, text):
    path = tmp_path / "eval.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"eval\.json is not an evaluation"):
        read_report(path)


def test_a_missing_report_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match=r"eval\.json.*stylekit eval"):
        read_report(tmp_path / "eval.json")


@pytest.mark.parametrize("version", [1, 3, "x"])
def test_figures_of_another_stylekit_say_so_and_how_to_take_them_anew(tmp_path, version):
    path = tmp_path / "eval.json"
    path.write_text(json.dumps({"format_version": version, "style": "x"}))
    with pytest.raises(
        DataError, match=rf"of another stylekit \(format {version}; this one reads format 2\)\. Run: stylekit eval"
    ):
        read_report(path)


def measured(rows):
    """A report that has these rows and no network."""
    conditions = Conditions.model_construct(
        name="own-v1", deviations=[], n=9, persons=7, reference_n=20, size_px=64, extractors=[], embedders=[]
    )
    network = MeasuredNetwork(step=3, sha256="a", size_px=64, trained_on=[])
    return EvalReport.model_construct(
        style="blobs", run="run", protocol=conditions, network=network, rows=rows, intervals={}, delta={}, notes=[], skipped=[]
    )


def test_skin_tones_stand_from_light_to_dark_with_their_numbers():
    shifts = {"brown": (4.04, 2), "unknown": (1.0, 1), "very-light": (-9.26, 5), "dark": (6.0, 1)}
    stylized = {"ita_shift_deg/n9": 0.5} | {f"ita_shift_deg/{tone}/n{n}": shift for tone, (shift, n) in shifts.items()}
    report = measured({"stylized": stylized, "photo": {"ita_shift_deg/n9": 0.0, "ita_shift_deg/tan/n3": 77.0}})
    assert list(report.by_tone("stylized").items()) == [
        ("very light", (-9.26, 5)), ("brown", (4.04, 2)), ("dark", (6.0, 1)), ("unknown", (1.0, 1))
    ]  # fmt: skip
    line = "ITA by skin tone: very light -9.3 (n=5), brown +4.0 (n=2), dark +6.0 (n=1), unknown +1.0 (n=1)"
    assert line in table(report).splitlines()
    assert "skin tone" not in table(measured({"stylized": {"ita_shift_deg/n9": 0.5}}))
