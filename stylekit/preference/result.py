"""What the votes add up to: shares with Wilson's intervals, and which raters are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

from scipy.stats import binomtest

from stylekit.paths import Workspace, atomic_write_text
from stylekit.preference.records import Entry, Question, RaterKind, Record, Skipped, Study, Vote, rater_key
from stylekit.preference.study import list_studies, read_study
from stylekit.preference.trials import FEWEST_REPEATS
from stylekit.preference.votes import VOTES, VoteLog

RESULT = "preference.json"
MOST_CONTRADICTIONS = 0.75
"""A rater who contradicts more than this share of at least four repeats is left out.

Between two entries that are as good as equal an honest rater answers repeats like a coin, and half of them as the limit would
leave out every third such rater; who always takes the same side contradicts all of them.
"""

Column = Literal["pref_a", "pref_b", "model_a", "model_b"]
COLUMNS: dict[tuple[RaterKind, Question], Column] = {
    ("person", "pref_a"): "pref_a",
    ("person", "pref_b"): "pref_b",
    ("model", "pref_a"): "model_a",
    ("model", "pref_b"): "model_b",
}
"""Where the votes of persons and of models go; a model's are never a preference of people."""

TITLES: dict[Column, str] = {
    "pref_a": "Pref.A, better stylized",
    "pref_b": "Pref.B, keeps the person better",
    "model_a": "chosen by a model, better stylized",
    "model_b": "chosen by a model, keeps the person better",
}


class Share(Record):
    """How often one entry was chosen.

    Attributes:
        share: Of its comparisons, those it won, 0 to 1.
        low: Lower end of Wilson's 95 % interval, which takes votes as independent.
        high: Its upper end.
        votes: Its comparisons.
        raters: Who made them.
        photographs: What they were made on.
    """

    share: float
    low: float
    high: float
    votes: int
    raters: int
    photographs: int


class Duel(Share):
    """Two entries against each other; the share is that of `entry`, an index, against `other`."""

    entry: int
    other: int


class RaterReport(Record):
    """How one rater voted.

    Attributes:
        votes: On pairs, which count.
        repeats: Pairs answered twice.
        contradictions: Those of them answered otherwise the second time.
        controls: Controls answered.
        failed: Those of them answered wrongly.
        dropped: Why the votes do not count; None where they do.
    """

    rater: str
    kind: RaterKind
    votes: int
    repeats: int
    contradictions: int
    controls: int
    failed: int
    dropped: str | None


class PreferenceResult(Record):
    """`preference.json`, version 1.

    Attributes:
        study: Name of the study.
        shares: For each column a share for every entry against all others, in their order; None without a vote.
        duels: For each column every two entries that met, where there are more than two.
        dropped: How many raters were left out.
    """

    format_version: Literal[1] = 1
    study: str
    entries: tuple[Entry, ...]
    photographs: int
    shares: dict[Column, tuple[Share | None, ...]]
    duels: dict[Column, tuple[Duel, ...]]
    raters: tuple[RaterReport, ...]
    dropped: int
    notes: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()


def read_result(folder: Path) -> PreferenceResult:
    """Count the votes of a study.

    Raises:
        DataError: If `study.json` is missing or damaged.
    """
    study = read_study(folder)
    log = VoteLog(folder)
    notes = list(study.notes)
    if log.damaged:
        lines = ", ".join(map(str, log.damaged))
        notes.append(f"Not counted: line {lines} of {VOTES}, which is no vote (cut short, perhaps, when the power failed).")
    return count(study, log.votes(), notes=notes)


def write_result(folder: Path) -> PreferenceResult:
    """Count the votes of a study and write `preference.json`."""
    result = read_result(folder)
    atomic_write_text(folder / RESULT, result.model_dump_json(indent=1) + "\n")
    return result


def read_results(workspace: Workspace) -> list[PreferenceResult]:
    """Return the results of all studies of a workspace, oldest first."""
    return [read_result(folder) for folder, _ in list_studies(workspace)]


def find_preferences(
    workspace: Workspace, digests: Collection[str], photographs: Collection[str] | None = None
) -> dict[str, dict[Column, Share]]:
    """Return what is known of several entries' preference, for a table of them.

    One study of the workspace counts: the one in which people compare most of the entries, and of equal ones that with most votes
    of people. Votes of models decide only between studies that are equal in both. Only votes between entries of the table count.

    Args:
        workspace: Where the studies lie.
        digests: The entries' (`Entry.digest`): SHA-256 of a checkpoint's weights, or `digest` of a folder.
        photographs: Digests of the crops that the table speaks of (`crop_digest`). Studies that show any other are left out, and
            `studies_elsewhere` names them; None takes all.

    Returns:
        By digest, the shares by column; entries without a vote are not in it.
    """
    best: dict[str, dict[Column, Share]] = {}
    most = (0, 0, 0, 0)
    for study, result in _results_of(workspace, digests):
        if photographs is not None and not _shows_only(study, photographs):
            continue
        found: dict[str, dict[Column, Share]] = {}
        for column, shares in result.shares.items():
            for entry, share in zip(study.entries, shares, strict=True):
                if share is not None:
                    found.setdefault(entry.digest, {})[column] = share
        rank = (*_compared(found, "person"), *_compared(found, "model"))
        if rank > most:
            best, most = found, rank
    return best


def studies_elsewhere(workspace: Workspace, digests: Collection[str], photographs: Collection[str]) -> list[str]:
    """Return the names of the studies with votes between entries of a table that show other photographs than the table's.

    Args:
        workspace: As of `find_preferences`, like the rest.
        digests: The entries'.
        photographs: Digests of the crops that the table speaks of.
    """
    found = _results_of(workspace, digests)
    return [study.name for study, result in found if result.shares and not _shows_only(study, photographs)]


def _results_of(workspace: Workspace, digests: Collection[str]) -> Iterator[tuple[Study, PreferenceResult]]:
    """Yield every study of at least two of some entries, with the result of the votes between them."""
    for folder, study in list_studies(workspace):
        among = {index for index, entry in enumerate(study.entries) if entry.digest in digests}
        if len(among) > 1:
            yield study, count(study, VoteLog(folder).votes(), among)


def _shows_only(study: Study, photographs: Collection[str]) -> bool:
    return {shown.sha256 for shown in study.photographs} <= set(photographs)


def _compared(found: dict[str, dict[Column, Share]], kind: RaterKind) -> tuple[int, int]:
    """Return how many entries raters of a kind compare, and with how many votes."""
    columns = {column for (of, _), column in COLUMNS.items() if of == kind}
    votes = [sum(share.votes for column, share in shares.items() if column in columns) for shares in found.values()]
    return sum(number > 0 for number in votes), sum(votes)


@dataclass(frozen=True)
class _Comparison:
    """A vote on a pair, unblinded: entries and photograph by index."""

    winner: int
    loser: int
    photograph: int
    rater: str


def count(
    study: Study, votes: Sequence[Vote], among: Collection[int] | None = None, notes: Sequence[str] = ()
) -> PreferenceResult:
    """Count votes.

    Args:
        study: What they were cast in.
        votes: Those that count (`VoteLog.votes`).
        among: Only comparisons between these entries, by index; all by default.
        notes: What a reader must know.
    """
    by_rater: dict[str, list[Vote]] = {}
    for vote in votes:
        by_rater.setdefault(rater_key(vote.rater), []).append(vote)
    judged = {key: _judge(cast) for key, cast in by_rater.items()}
    entries = range(len(study.entries))
    among = set(entries if among is None else among)
    compared: dict[Column, list[_Comparison]] = {column: [] for column in COLUMNS.values()}
    for key, cast in by_rater.items():
        for vote in cast if judged[key].dropped is None else ():
            comparison = _unblind(study, vote)
            if comparison is not None and {comparison.winner, comparison.loser} <= among:
                compared[COLUMNS[vote.kind, vote.trial.question]].append(comparison)
    shares = {
        column: tuple(_share(entry, [each for each in found if entry in (each.winner, each.loser)]) for entry in entries)
        for column, found in compared.items()
        if found
    }
    duels: dict[Column, tuple[Duel, ...]] = {}
    for column, found in compared.items() if len(entries) > 2 else ():
        met = [
            Duel(entry=a, other=b, **share.model_dump())
            for a, b in combinations(entries, 2)
            if (share := _share(a, [each for each in found if {each.winner, each.loser} == {a, b}])) is not None
        ]
        if met:
            duels[column] = tuple(met)
    return PreferenceResult(
        study=study.name,
        entries=study.entries,
        photographs=len(study.photographs),
        shares=shares,
        duels=duels,
        raters=tuple(judged.values()),
        dropped=sum(rater.dropped is not None for rater in judged.values()),
        notes=tuple(notes),
        skipped=study.skipped,
    )


def _unblind(study: Study, vote: Vote) -> _Comparison | None:
    """Return what a vote on a pair says; None for repeats, controls, and pictures that the study does not have."""
    if vote.trial.role != "pair" or vote.choice is None:
        return None
    chosen, other = vote.trial.picture(vote.choice), vote.trial.picture("right" if vote.choice == "left" else "left")
    winner, loser, photograph = study.entry_of(chosen), study.entry_of(other), study.photograph_of(chosen)
    if winner is None or loser is None or photograph is None:
        return None
    return _Comparison(winner, loser, photograph, rater_key(vote.rater))


def _share(entry: int, compared: Sequence[_Comparison]) -> Share | None:
    """Return the share of an entry in its comparisons; None where there are none."""
    if not compared:
        return None
    won, votes = sum(each.winner == entry for each in compared), len(compared)
    interval = binomtest(won, votes).proportion_ci(0.95, method="wilson")
    return Share(
        share=won / votes,
        low=max(0.0, float(interval.low)),
        high=min(1.0, float(interval.high)),
        votes=votes,
        raters=len({each.rater for each in compared}),
        photographs=len({each.photograph for each in compared}),
    )


def _judge(votes: Sequence[Vote]) -> RaterReport:
    """Return how one rater voted."""
    chosen = {vote.trial.id: vote.trial.picture(vote.choice) for vote in votes if vote.choice}
    repeats = [vote.trial for vote in votes if vote.trial.role == "repeat" and vote.trial.of in chosen]
    contradictions = sum(chosen[str(trial.of)] != chosen[trial.id] for trial in repeats)
    controls = [vote for vote in votes if vote.trial.role == "control"]
    failed = sum(vote.choice != vote.trial.expected for vote in controls)
    dropped = None
    if failed:
        dropped = f"answered {failed} of {len(controls)} controls wrongly"
    elif len(repeats) >= FEWEST_REPEATS and contradictions > MOST_CONTRADICTIONS * len(repeats):
        dropped = f"contradicted {contradictions} of {len(repeats)} repeats"
    return RaterReport(
        rater=votes[0].rater,
        kind=votes[0].kind,
        votes=sum(vote.trial.role == "pair" for vote in votes),
        repeats=len(repeats),
        contradictions=contradictions,
        controls=len(controls),
        failed=failed,
        dropped=dropped,
    )


def table(result: PreferenceResult) -> str:
    """Return the result as text."""
    lines: list[str] = []
    width = max(len(entry.label) for entry in result.entries)
    for column, shares in result.shares.items():
        lines.append(f"{TITLES[column]} (share of comparisons won, 95 % interval)")
        for entry, share in zip(result.entries, shares, strict=True):
            said = "no votes" if share is None else _words(share)
            lines.append(f"  {entry.label:<{width}}  {said}")
        for duel in result.duels.get(column, ()):
            lines.append(f"  {result.entries[duel.entry].label} over {result.entries[duel.other].label}: {_words(duel)}")
    if lines:
        lines.append("The intervals take votes as independent; those of one rater, or on one photograph, are not quite.")
    else:
        lines.append("No votes that count." if result.raters else "No votes yet.")
    lines.append(_raters(result))
    lines += [f"Left out: {rater.rater}, who {rater.dropped}" for rater in result.raters if rater.dropped]
    lines += [f"Note: {note}" for note in result.notes]
    if result.skipped:
        lines.append(f"Photographs and cartoons left out: {len(result.skipped)}, the first: {result.skipped[0].reason}")
    return "\n".join(line for line in lines if line)


def _words(share: Share) -> str:
    people, shown = _number(share.raters, "rater"), _number(share.photographs, "photograph")
    return f"{share.share:5.1%}  {share.low:5.1%} to {share.high:5.1%}  of {share.votes}; {people}, {shown}"


def _number(count: int, of: str) -> str:
    return f"{count} {of if count == 1 else of + 's'}"


def _raters(result: PreferenceResult) -> str:
    if not result.raters:
        return ""
    kinds = Counter(rater.kind for rater in result.raters)
    said = " and ".join(_number(number, kind) for kind, number in kinds.items())
    return f"Raters: {said}, {result.dropped} of them left out; {result.photographs} photographs"
