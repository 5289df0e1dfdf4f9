"""`report.html` of a run: what it learned to draw, how, how well, and from what, as one page to send to a friend."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from stylekit.config.load import parse_recipe
from stylekit.config.schema import Recipe
from stylekit.data.datasets import is_described, listing, used_crops
from stylekit.data.shards import photo_set
from stylekit.engine.checkpoint import (
    WEIGHTS,
    Meta,
    chosen_checkpoint,
    describe_checkpoint,
    latest_checkpoint,
    load_generator,
)
from stylekit.engine.evaluations import Evaluation, read_evaluations, standing
from stylekit.engine.preview import read_sample_sheet, stylize_batch
from stylekit.engine.teacher import TEACHER_FILE, TeacherRecord, read_teacher
from stylekit.errors import DataError, StylekitError
from stylekit.images import Rgb, resize
from stylekit.metrics.glossary import GLOSSARY
from stylekit.metrics.pictures import PictureTable, Verdict, read_pictures, worst_pictures
from stylekit.metrics.report import HEADLINES, EvalReport, read_report
from stylekit.nn.generators import multiplications, parameters
from stylekit.pages.charts import Dot, Point, curve, dots, signed, thinned
from stylekit.pages.document import Document, Section, paragraphs, table, tiles
from stylekit.pages.pictures import Frame, Pair, before_after, film, side_by_side
from stylekit.paths import Workspace, atomic_write_text, sha256_file

if TYPE_CHECKING:
    from stylekit.data.report import SetReport

PAGE = "report.html"
"""The page's name in the run folder."""

_HEROES = 4
_SHOWN = 8  # best pictures, and worst ones
_FRAMES = 9
_HERO_PX, _PAIR_PX, _FRAME_PX = 384, 192, 160
_DATA_FIGURES = ("ita_deg", "yaw_deg")
ROW_NAMES = {
    "stylized": "this network",
    "photo": "photographs",
    "colour-transfer": "colour transfer",
    "bilateral-edges": "bilateral edges",
}
"""What a page calls the rows of `eval.json`."""

_LOSSES = {
    "content": "how far the content network's features of the result are from the photograph's",
    "palette": "distance to the colours that similar cartoons have at the same place",
    "tv": "total variation: unrest of the areas",
    "identity": "distance of the face network's embeddings",
    "surface": "the generator against the discriminator of smoothed pictures",
    "texture": "the generator against the discriminator of gray pictures",
    "g_projected": "the generator against the projected discriminators",
    "d_projected": "the projected discriminators",
    "difference": "mean absolute difference from the teacher's pictures, of a range of 2",
    "warm_start": "repeating the photograph, at the start",
}

_LOG = logging.getLogger(__name__)
_Read = TypeVar("_Read")


@dataclass
class _Run:
    """What a run folder holds; None or empty where there is nothing.

    Attributes:
        problems: What is there and cannot be read, one sentence each.
    """

    folder: Path
    workspace: Workspace
    recipe: Recipe | None = None
    recipe_text: str = ""
    meta: Meta | None = None
    chosen: Meta | None = None
    environment: dict[str, str] = field(default_factory=dict)
    stats: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    report: EvalReport | None = None
    teacher: TeacherRecord | None = None
    pictures: PictureTable | None = None
    samples: dict[int, list[tuple[Rgb, Rgb]]] = field(default_factory=dict)
    sets: list[SetReport] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def attempt(self, what: str, read: Callable[[], _Read]) -> _Read | None:
        """Return what `read` gives; None, and a problem noted, where it fails."""
        try:
            return read()
        except StylekitError as error:
            self.problems.append(error.message)
        except (OSError, ValueError) as error:
            self.problems.append(f"{what} cannot be read: {error}.")
        return None


def write_run_page(run: Path) -> Path:
    """Write a run's page and return where it is.

    Everything is read from the run folder and, where they still lie beside it, the data sets. What is missing is left out;
    what is damaged is named on the page.

    Args:
        run: The run folder, `work_dirs/<run>`, or one of its checkpoints.

    Raises:
        DataError: If there is no such run.
        StylekitError: If the page cannot be written.
    """
    folder = run.parent.parent if run.parent.name == "checkpoints" else run
    page = folder / PAGE
    atomic_write_text(page, render_run(folder))
    return page


def update_run_page(run: Path) -> None:
    """Write a run's page as far as it can be; a training goes on without it."""
    try:
        write_run_page(run)
    except Exception:
        _LOG.warning("The page %s could not be written.", run / PAGE, exc_info=True)


def render_run(run: Path) -> str:
    """Return the page, whole.

    Raises:
        DataError: If there is no such run.
    """
    found = _read(run)
    pairs = _evaluated_pairs(found)
    sections = [
        Section("film", "How the drawing formed", _film(found)),
        Section("measured", "How good it is", _measured(found)),
        Section("teacher", "Beside its teacher", _beside_teacher(found)),
        Section("pictures", "The best and the worst", _best_and_worst(found, pairs)),
        Section("curves", "How it learned", _curves(found)),
        Section("data", "What it learned from", _data(found)),
        Section("recipe", "Recipe", _recipe(found)),
        Section("environment", "Where and with what it was trained", _environment(found)),
        Section("problems", "What could not be read", _list(found.problems)),
    ]
    title = found.recipe.style if found.recipe else run.name
    header = f"""<p class="eyebrow">Portrait style trained with stylekit, run {escape(run.name)}</p>
<h1>{escape(_title(title))}</h1>
<p class="headline">{escape(_headline(found))}</p>
{_tiles(found)}
{_heroes(found, pairs)}"""
    return str(Document(f"{title}: training report", header, sections, _footer(found), styles=_styles(found), scripted=True))


def _title(style: str) -> str:
    return style.replace("-", " ").replace("_", " ").capitalize()


# Reading


def _read(folder: Path) -> _Run:
    if not any((folder / name).exists() for name in ("recipe.yaml", "checkpoints", "stats.jsonl")):
        raise DataError(f"There is no run at {folder}.", "Train one with stylekit train, or name its folder in work_dirs.")
    found = _Run(folder, Workspace(folder.resolve().parent.parent))
    recipe, environment = folder / "recipe.yaml", folder / "env.json"
    if recipe.is_file():
        found.recipe_text = found.attempt(recipe.name, lambda: recipe.read_text("utf-8")) or ""
    if found.recipe_text:
        found.recipe = found.attempt(recipe.name, lambda: parse_recipe(found.recipe_text, source=recipe.name))
    if (folder / "checkpoints").is_dir():
        found.meta = found.attempt("The newest checkpoint", lambda: describe_checkpoint(latest_checkpoint(folder)))
        found.chosen = found.attempt("The best checkpoint", lambda: describe_checkpoint(chosen_checkpoint(folder)))
    if environment.is_file():
        found.environment = found.attempt(environment.name, lambda: _read_environment(environment)) or {}
    found.stats, damaged = _read_stats(folder / "stats.jsonl")
    if damaged:
        found.problems.append(f"stats.jsonl has {damaged} damaged line{'s' * (damaged > 1)}.")
    found.teacher = found.attempt(TEACHER_FILE, lambda: read_teacher(folder))
    found.evaluations = found.attempt("evals.jsonl", lambda: read_evaluations(folder)) or []
    if (folder / "eval.json").is_file():
        found.report = found.attempt("eval.json", lambda: read_report(folder / "eval.json"))
    if (folder / "eval_pictures.csv").is_file():
        found.pictures = found.attempt("eval_pictures.csv", lambda: read_pictures(folder / "eval_pictures.csv"))
    _read_samples(found)
    _read_sets(found)
    return found


def _read_environment(path: Path) -> dict[str, str]:
    content = json.loads(path.read_text("utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is not a table")
    return {str(key): str(value) for key, value in content.items()}


def _read_stats(path: Path) -> tuple[list[dict[str, float]], int]:
    """Return the lines that can be read, and how many cannot."""
    lines: list[dict[str, float]] = []
    damaged = 0
    for text in path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            line = {str(name): float(value) for name, value in json.loads(text).items()}
            line["step"]
        except (ValueError, TypeError, KeyError, AttributeError):
            damaged += 1
        else:
            lines.append(line)
    return lines, damaged


def _read_samples(found: _Run) -> None:
    """Read sheets evenly spread over the steps, the first, the last and the chosen step's among them."""
    if found.recipe is None:
        return
    paths: dict[int, Path] = {}
    for path in sorted((found.folder / "samples").glob("step-*.jpg")):
        if path.stem[5:].isdigit():
            paths[int(path.stem[5:])] = path
    steps = sorted(paths)
    chosen = {steps[place] for place in np.linspace(0, len(steps) - 1, min(_FRAMES, len(steps))).round().astype(int)}
    if found.chosen and found.chosen.step in paths:
        chosen.add(found.chosen.step)
    size = found.recipe.train.size
    for step in sorted(chosen):
        path = paths[step]
        pairs = found.attempt(path.name, partial(read_sample_sheet, path, size))
        if pairs:
            found.samples[step] = pairs


def _read_sets(found: _Run) -> None:
    if found.recipe is None:
        return
    try:
        from stylekit.data.report import report as judge_set
    except ImportError:  # training does without the package that finds faces
        return
    source = found.recipe.photos.source
    photos = found.attempt("The photographs", lambda: photo_set(source, found.workspace))
    for folder in filter(None, (found.workspace.style(found.recipe.style), photos)):
        if (folder / "manifest.jsonl").is_file():
            judged = found.attempt(str(folder), partial(judge_set, folder))
            if judged:
                found.sets.append(judged)


# Pictures


@dataclass(frozen=True, eq=False)
class _Judged:
    """Evaluated pairs, best first and worst first, as many of each as are shown."""

    best: list[Pair]
    worst: list[Pair]


def _evaluated_pairs(found: _Run) -> _Judged | None:
    """Draw the best and the worst pictures of the evaluation anew, with the checkpoint that was measured; None if it is gone."""
    if found.pictures is None or found.report is None or found.chosen is None or found.recipe is None:
        return None
    if found.chosen.sha256.get(WEIGHTS) != found.report.network.sha256:
        found.problems.append(
            f"eval.json measured step {found.report.network.step}, which is not what the run is shown by now. Run: stylekit eval"
        )
        return None
    report, source = found.report, found.recipe.photos.source
    folder = found.attempt("The photographs", lambda: _measured_photographs(report, source, found.workspace))
    if folder is None:
        found.problems.append(
            "The photographs that eval.json measured are not there, or are no longer the same, so that the best and the worst "
            "pictures cannot be shown. Run: stylekit eval"
        )
        return None
    verdicts = worst_pictures(found.pictures.figures, len(found.pictures.files))
    worst = verdicts[: min(_SHOWN, len(verdicts) // 2)]
    best = verdicts[::-1][: min(_SHOWN, (len(verdicts) + 1) // 2)]
    pairs = found.attempt("The checkpoint", lambda: _draw(found, folder, [*best, *worst]))
    if pairs is None:
        return None
    return _Judged([p for p in pairs[: len(best)] if p], [p for p in pairs[len(best) :] if p])


def _measured_photographs(report: EvalReport, source: str, workspace: Workspace) -> Path | None:
    """Return the data set whose list is the one that was measured, the run's own or another beside it; None if there is none."""
    beside = sorted((workspace.root / "datasets").glob("*/"))
    for folder in (photo_set(source, workspace), *beside):
        if is_described(folder) and sha256_file(listing(folder)) == report.protocol.photos_manifest_sha256:
            return folder
    return None


@torch.random.fork_rng(devices=[])  # networks draw first weights when they are built
def _draw(found: _Run, folder: Path, verdicts: Sequence[Verdict]) -> list[Pair | None]:
    """Return each picture beside its photograph; None for those whose photograph is gone."""
    assert found.pictures is not None
    generator = load_generator(found.folder)
    size = generator.recipe.train.size
    crops = {str(line.file): crop for line, crop in used_crops(folder)}
    pairs: list[Pair | None] = []
    for verdict in verdicts:
        file = found.pictures.files[verdict.index]
        crop = found.attempt(file, crops[file].read) if file in crops else None
        if crop is None:
            pairs.append(None)
            continue
        photo = resize(crop, (size, size))
        stylized = stylize_batch(generator.module, photo[None])[0]
        pairs.append(Pair(photo, stylized, Path(file).stem, ", ".join(verdict.reasons)))
    return pairs


def _heroes(found: _Run, pairs: _Judged | None) -> str:
    """Return the best pairs, or before any evaluation the last sheet's first, each with a slider."""
    if pairs and pairs.best:
        shown = [Pair(pair.photo, pair.stylized, pair.name) for pair in pairs.best[:_HEROES]]
    elif found.samples:
        sheet = found.samples[max(found.samples)]
        shown = [Pair(photo, stylized, f"Photograph {n}") for n, (photo, stylized) in enumerate(sheet[:_HEROES], 1)]
    else:
        return ""
    return f'<div class="heroes">{"".join(before_after(pair, longest_px=_HERO_PX) for pair in shown)}</div>'


def _film(found: _Run) -> str:
    if len(found.samples) < 2:
        return ""
    first = next(iter(found.samples.values()))
    best = _best(found)
    frames = [Frame("the photographs", [photo for photo, _ in first])]
    for step, pairs in found.samples.items():
        label = f"step {step:,}{', the best' if best and step == best.step else ''}"
        frames.append(Frame(label, [stylized for _, stylized in pairs]))
    note = '<p class="note">The same photographs all through. Drag through the training, or press play.</p>'
    return f"{note}\n{film(frames, longest_px=_FRAME_PX)}"


def _best_and_worst(found: _Run, pairs: _Judged | None) -> str:
    if pairs is None or not pairs.worst:
        return ""
    best = "".join(side_by_side(Pair(p.photo, p.stylized, p.name), longest_px=_PAIR_PX) for p in pairs.best)
    worst = "".join(side_by_side(pair, longest_px=_PAIR_PX) for pair in pairs.worst)
    note = (
        "Of people whom the network never saw, ranked by what stands worst in a picture: likeness, faults at eyes and mouth, "
        "or lost content. Every picture's figures stand in eval_pictures.csv."
    )
    return f"""{paragraphs([note])}
<h3>The best</h3>
<div class="pairs">{best}</div>
<h3>The worst, and why</h3>
<div class="pairs">{worst}</div>"""


# Words and figures


def _best(found: _Run) -> Evaluation | None:
    return standing(found.evaluations).best


def _headline(found: _Run) -> str:
    parts = [found.recipe.description] if found.recipe and found.recipe.description else []
    if found.report:
        recognised = found.report.value("stylized", "id_recognised")
        if recognised is not None:
            persons = found.report.protocol.persons
            parts.append(f"Of {persons} people whom it never saw, it leaves {recognised:.0%} of the pictures recognisable.")
    if not parts:
        parts.append("A network that redraws portraits in the style of a set of cartoons.")
    return " ".join(parts)


def _tiles(found: _Run) -> str:
    values: dict[str, str] = {}
    if found.meta:
        values["steps"] = f"{found.meta.step:,}"
        if found.chosen and found.chosen.step != found.meta.step:
            values["best step"] = f"{found.chosen.step:,}"
        if found.meta.train_s:
            values["of training"] = _duration(found.meta.train_s)
    for each in found.sets:
        values[_kind(each)] = f"{each.train or each.used:,}"
    if found.report and found.report.value("stylized", "kid_x1000") is not None:
        for metric, name in (("kid_x1000", "KID x1000"), ("id_centred", "likeness (ID)")):
            value = found.report.value("stylized", metric)
            if value is not None:
                values[name] = signed(format(value, GLOSSARY[metric].form))
    return tiles(values) if values else ""


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _measured(found: _Run) -> str:
    report = found.report
    if report is None:
        return ""
    protocol = report.protocol
    deviating = " with deviations" if protocol.deviations else ""
    conditions = (
        f"Protocol {protocol.name}{deviating}: {protocol.n} photographs of {protocol.persons} people held out of training, "
        f"against {protocol.reference_n} cartoons of {protocol.reference}, all at {protocol.size_px} px; step "
        f"{report.network.step:,}. KID and its kin on {protocol.extractors[0]}, likeness on {protocol.embedders[0]}. "
        "Whiskers are 95% intervals over the people. The filters need no training: a network should beat them."
    )
    shown = [metric for metric in GLOSSARY if "stylized" in _values(report, metric)]
    cards = "\n".join(_figure_card(report, metric) for metric in shown if metric in HEADLINES) + _skin_tones(report)
    others = "\n".join(_figure_card(report, metric) for metric in shown if metric not in HEADLINES)
    more = f'<details><summary>More figures</summary><div class="cards">\n{others}\n</div></details>' if others else ""
    deviations = [f"Deviates from {protocol.name}: {deviation}" for deviation in protocol.deviations]
    left_out = [f"Left out: {skipped.file}: {skipped.reason}" for skipped in report.skipped]
    return f"""{paragraphs([conditions], "conditions")}
<div class="cards">
{cards}
</div>
{paragraphs([*deviations, *report.notes, *left_out])}
{more}
<details><summary>All figures as a table</summary>{_all_figures(report)}</details>"""


def _beside_teacher(found: _Run) -> str:
    teacher = found.teacher
    if teacher is None or found.recipe is None:
        return ""
    own = found.recipe.train.network
    step = found.chosen.step if found.chosen else 0
    chosen = next((each for each in reversed(found.evaluations) if each.step == step), None)
    rows: list[tuple[str, ...]] = []
    conditions = ""
    if teacher.evaluation is not None and chosen is not None and chosen.conditions == teacher.evaluation.conditions:
        conditions = (
            "Both measured on the same people, held out of training; "
            f"KID x1000 on {chosen.extractor}, likeness on {chosen.embedder}."
        )
        pair = (teacher.evaluation.metrics(), chosen.metrics())
        rows = [
            (GLOSSARY[name].title, *(signed(format(each[f"metric/{name}"], GLOSSARY[name].form)) for each in pair))
            for name in ("kid_relative", "kid_x1000", "id_centred", "id_recognised")
        ]
        rows.append(("difference from the teacher's pictures, levels of 255", "0", f"{chosen.teacher_levels:.1f}"))
    networks = (teacher.network, own)
    rows += [
        ("network", *(f"{each.arch}, width {each.width}, {each.blocks} blocks" for each in networks)),
        ("weights in float16, MB", *(f"{2e-6 * parameters(each):.2f}" for each in networks)),
        ("multiplications at 256x256, billions", *(f"{1e-9 * multiplications(each):.2f}" for each in networks)),
    ]
    return f"""{paragraphs([conditions], "conditions") if conditions else ""}
{table(("what", "teacher", f"student, step {step:,}"), rows, "Teacher and student")}"""


def _values(report: EvalReport, metric: str) -> dict[str, float]:
    found = {row: report.value(row, metric) for row in report.rows}
    return {row: value for row, value in found.items() if value is not None}


def _figure_card(report: EvalReport, metric: str) -> str:
    meaning = GLOSSARY[metric]
    rows = [
        Dot(ROW_NAMES.get(row, row), value, report.interval(row, metric), leading=row == "stylized")
        for row, value in _values(report, metric).items()
    ]
    direction = f' <span class="quiet">{meaning.direction}</span>' if meaning.direction else ""
    return f"""<figure class="card">
<h3>{escape(meaning.title)}{direction}</h3>
{dots(rows, title=meaning.title, anchor=f"figure-{metric}", form=meaning.form)}
<figcaption><p>{escape(meaning.sentence)}</p></figcaption>
</figure>"""


def _skin_tones(report: EvalReport) -> str:
    """Return a card with the shift of the stylized pictures by the skin tone of their photographs, lightest first."""
    rows = [Dot(f"{tone} ({count})", shift) for tone, (shift, count) in report.by_tone("stylized").items()]
    if not rows:
        return ""
    meaning = GLOSSARY["ita_shift_deg"]
    drawn = dots(rows, title=f"{meaning.title}, by skin tone", anchor="skin-tones", form=meaning.form, floor=0)
    said = (
        f"{meaning.sentence} By the skin tone of the photograph, in brackets how many show it; a tone of few photographs says "
        "little. The dashed line is no shift."
    )
    return f"""
<figure class="card">
<h3>Shift by skin tone, degrees</h3>
{drawn}
<figcaption><p>{escape(said)}</p></figcaption>
</figure>"""


def _all_figures(report: EvalReport) -> str:
    names = dict.fromkeys(name for figures in report.rows.values() for name in figures)
    rows = [[name, *(_cell(report, row, name) for row in report.rows)] for name in names]
    return table(["figure", *(ROW_NAMES.get(row, row) for row in report.rows)], rows, "All figures")


def _cell(report: EvalReport, row: str, name: str) -> str:
    value, interval = report.rows[row].get(name), report.intervals.get(row, {}).get(name)
    if value is None:
        return "–"
    return signed(f"{value:.4g}") + (f" ({signed(f'{interval[0]:.4g}')} to {signed(f'{interval[1]:.4g}')})" if interval else "")


def _curves(found: _Run) -> str:
    parts = []
    if found.evaluations:
        parts.append(_evaluation_curves(found))
    names = dict.fromkeys(name for line in found.stats for name in line if name.startswith("loss/"))
    cards = [_loss_card(found, name) for name in names]
    if cards:
        note = '<p class="note">Losses show that training works, not how good it is: adversarial ones need not fall.</p>'
        parts.append(f'<h3>Losses</h3>\n{note}\n<div class="cards">{"".join(cards)}</div>')
    return "\n".join(parts)


def _evaluation_curves(found: _Run) -> str:
    best, last = _best(found), found.evaluations[-1]
    mark = (best.step, f"best, step {best.step:,}") if best else None
    series = {
        "kid_relative": [Point(e.step, e.kid_relative, e.kid_relative_low, e.kid_relative_high) for e in found.evaluations],
        "kid_x1000": [Point(e.step, e.kid_x1000, e.kid_x1000_low, e.kid_x1000_high) for e in found.evaluations],
        "id_centred": [Point(e.step, e.id_centred) for e in found.evaluations],
        "id_recognised": [Point(e.step, e.id_recognised) for e in found.evaluations],
    }
    cards = "".join(
        f"""<figure class="card"><h3>{escape(GLOSSARY[name].title)} <span class="quiet">{GLOSSARY[name].direction}</span></h3>
{curve(points, title=f"{GLOSSARY[name].title} over the steps", anchor=f"curve-{name}", mark=mark)}
<figcaption><p>{escape(GLOSSARY[name].sentence)}</p></figcaption></figure>"""
        for name, points in series.items()
    )
    said = "No step left the people recognisable, and the pictures various, enough to be called the best."
    if best:
        count = len(found.evaluations)
        said = f"Step {best.step:,} is the best of {count}: the lowest relative KID above the protocol's floors."
    by = " and ".join(last.kids_x1000)
    how = f"Relative KID on {by}, KID x1000 on {last.extractor}, likeness on {last.embedder}; the band is a 95% interval."
    note = f"{said} Measured on people held out of training. {how}"
    return f'{paragraphs([note])}\n<div class="cards">{cards}</div>'


def _loss_card(found: _Run, name: str) -> str:
    points = thinned([Point(line["step"], line[name]) for line in found.stats if name in line and np.isfinite(line[name])])
    if not points:
        return ""
    short = name.removeprefix("loss/")
    meaning = _LOSSES.get(short, "")
    caption = f"<figcaption><p>{escape(meaning[:1].upper() + meaning[1:])}.</p></figcaption>" if meaning else ""
    drawn = curve(points, title=f"Loss {short} over the steps", anchor=f"loss-{escape(short, quote=True)}")
    return f'<figure class="card"><h3>{escape(short)}</h3>{drawn}{caption}</figure>'


def _data(found: _Run) -> str:
    if not found.sets:
        return ""
    from stylekit.data.page import PAGE as DATA_PAGE
    from stylekit.data.page import figure_card

    parts = []
    for each in found.sets:
        counts = {"usable": each.used, "left out": each.rejected}
        if each.persons:
            counts |= {"people": each.persons, "held out": each.held_out}
        cards = "".join(
            figure_card(figure, f"{each.kind}-{figure.name}") for figure in each.figures if figure.name in _DATA_FIGURES
        )
        page = each.folder / DATA_PAGE
        own = ""
        if page.is_file() and page.resolve().is_relative_to(found.workspace.root):
            target = page.resolve().relative_to(found.workspace.root).as_posix()
            own = f" Its own report is <code>{escape(target)}</code>."
        parts.append(f"""<h3>The {_kind(each)}: {escape(each.folder.name)}</h3>
<p>{escape(each.headline)}{own}</p>
{tiles({title: f"{count:,}" for title, count in counts.items()})}
<div class="cards data">{cards}</div>""")
    rows = [
        (_kind(each), origin.source, f"{origin.count:,}", origin.licence or "not noted", origin.attribution or "not noted")
        for each in found.sets
        for origin in each.origins
    ]
    parts.append(f"<h3>Sources</h3>\n{table(('pictures', 'source', 'count', 'licence', 'by'), rows)}")
    return "\n".join(parts)


def _kind(found: SetReport) -> str:
    """Return what a set holds, in the plural."""
    return "cartoons" if found.kind == "cartoon" else "photographs"


def _styles(found: _Run) -> list[str]:
    if not found.sets:
        return []
    from stylekit.data.page import style_sheet

    return [style_sheet()]


def _recipe(found: _Run) -> str:
    if not found.recipe_text:
        return ""
    return f"""<details><summary>recipe.yaml: everything that decides how it was trained</summary>
<div class="wide" role="region" aria-label="recipe.yaml" tabindex="0"><pre>{escape(found.recipe_text)}</pre></div></details>"""


def _environment(found: _Run) -> str:
    facts = dict(found.environment)
    if found.meta:
        facts |= {"steps": f"{found.meta.step:,}", "photographs seen": f"{found.meta.images_seen:,}"}
        if found.meta.train_s:
            facts["time"] = _duration(found.meta.train_s)
    times = [line["time/step_s"] for line in found.stats if "time/step_s" in line]
    if times:
        facts["time of a step, median"] = f"{median(times):.2f} s"
    parts = [table(("what", "value"), facts.items(), "Environment")] if facts else []
    if found.meta and found.meta.assets:
        rows = [(role, asset.name, asset.source, asset.sha256[:12]) for role, asset in found.meta.assets.items()]
        parts.append(f"<h3>Frozen networks that taught it</h3>\n{table(('role', 'network', 'from', 'SHA-256'), rows)}")
    return "\n".join(parts)


def _list(texts: Iterable[str]) -> str:
    rows = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<ul>{rows}</ul>" if rows else ""


def _footer(found: _Run) -> str:
    lines = []
    if found.recipe and found.recipe.licence:
        authors = f" by {', '.join(found.recipe.authors)}" if found.recipe.authors else ""
        lines.append(f"The style{authors} is under {found.recipe.licence}.")
    for each in found.sets:
        if named := _credits({(origin.licence, origin.attribution) for origin in each.origins}):
            lines.append(f"{_kind(each).capitalize()}: {named}.")
    lines.append(
        "Made by stylekit from the run's folder. The page holds pictures of people: share it only where you may share them."
    )
    return "<br>".join(map(escape, lines))


def _credits(terms: Iterable[tuple[str | None, str | None]]) -> str:
    named = sorted(", ".join(filter(None, (attribution, licence))) for licence, attribution in terms)
    shown = [text for text in named if text][:6]
    return "; ".join(shown) + (f" and {len(named) - len(shown)} more" if len(named) > len(shown) and shown else "")
