"""The demonstration as one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from string import Template

from demo.findings import Finding, Findings, matched
from demo.story import ASKED, OPERATING_POINT
from gmn_client.models import RankedCrop
from service.commands.sources import SourceCrop

VERDICT_WORDS = {
    "match": "match",
    "uncertain": "uncertain",
    "no_match": "no match",
    "nothing_searched": "nothing searched",
}
SCORING_WORDS = {"mnet": "M-Net", "fused": "M-Net and cosine", "cosine": "cosine alone"}


def render_page(findings: Findings, known: int, strangers: int) -> str:
    """Renders the page; it loads nothing from anywhere.

    Args:
        findings: what to show.
        known, strangers: how many queries of each to show; the figures count all of them.
    """
    template = Template((files("demo") / "page.html").read_text(encoding="utf-8"))
    shown = findings.sample(known, strangers)
    model = findings.model
    embedder = model.embedding_fingerprint[:12]
    return template.substitute(
        lead=escape(" ".join((setting(findings), judging(findings)))),
        figures="".join(_figure(value, name) for value, name in figures(findings)),
        comparison=escape(comparison(findings)),
        chosen=escape(chosen(findings, known, strangers)),
        known=_cards(one for one in shown if one.enrolled),
        strangers=_cards(one for one in shown if not one.enrolled),
        footer=escape(f"{served(findings)} Embedder {embedder}, computed on {model.device}."),
    )


def figures(findings: Findings) -> list[tuple[str, str]]:
    """The headline figures, each with what it counts."""
    known, strangers = len(findings.known), len(findings.strangers)
    return [
        (
            f"{known - matched(findings.known)} of {known}",
            f"known people not answered match ({findings.unsure} of these uncertain)",
        ),
        (
            f"{findings.count('wrong person')} of {known}",
            "known people answered match as another person",
        ),
        (
            f"{matched(findings.strangers)} of {strangers}",
            "strangers answered match (false alarms)",
        ),
        *(
            (f"{findings.metric(name, by):.1%}", f"{title} with {ranked_by}, {known} queries")
            for name, title in (("rank_1", "Rank-1"), ("mAP", "mAP"))
            for by, ranked_by in ((one, SCORING_WORDS[one]) for one in findings.scorings)
        ),
        (f"{findings.milliseconds:.0f} ms", "per query, in the service"),
        (f"{findings.crops_per_second:.0f}/s", "crops enrolled"),
    ]


def setting(findings: Findings) -> str:
    """Who was enrolled, and who was asked for in which order."""
    return (
        f"{len(findings.gallery)} crops of {findings.people} drawn people from {findings.cameras} "
        f"cameras enrolled; one more camera asks for {len(findings.known)} of them and for "
        f"{len(findings.strangers)} strangers, in a mixed order of seed {findings.seed}."
    )


def served(findings: Findings) -> str:
    """Which artefact was served, and under which terms."""
    model = findings.model
    return f"Artefact {model.artefact}: {model.provenance.get('terms', 'unknown')}"


def judging(findings: Findings) -> str:
    """What the verdicts were made by."""
    fitted, strangers = findings.calibration, len(findings.strangers)
    phases = "; ".join(
        f"{'the model' if state == 'artefact' else 'the gallery'}'s thresholds: "
        f"{matched(known)} of {len(known)} known people and {matched(others)} of {len(others)} "
        "strangers matched"
        for state, (known, others) in findings.by_calibration().items()
    )
    return (
        f"Operating point {OPERATING_POINT}: {ASKED:.0%} of strangers may be answered match, "
        f"{ASKED * strangers:.1f} of {strangers}. By {phases}. The model's thresholds "
        "do not fit every camera; a gallery gets its own from about 20 searches on. After the last "
        f"query the gallery's calibration was '{fitted.state}', with {fitted.searches} searches."
    )


def comparison(findings: Findings) -> str:
    """What the difference between the scorings is worth."""
    scoring, difference = findings.model.default_scoring, ""
    if scoring != "cosine":
        rank_1, precision = (
            100 * (findings.metric(name, scoring) - findings.metric(name, "cosine"))
            for name in ("rank_1", "mAP")
        )
        words = SCORING_WORDS[scoring]
        difference = f"{words} minus cosine: Rank-1 {rank_1:+.1f}, mAP {precision:+.1f} points. "
    return (
        f"{difference}One query is "
        f"{100 / max(1, len(findings.known)):.1f} points of Rank-1, and drawn people show nothing "
        "of real cameras: docs/results.md has measurements on photographs."
    )


def chosen(findings: Findings, known: int, strangers: int) -> str:
    """How those who are shown were chosen."""
    return (
        f"Shown are {min(known, len(findings.known))} of {len(findings.known)} known people and "
        f"{min(strangers, len(findings.strangers))} of {len(findings.strangers)} strangers, drawn "
        f"at random by seed {findings.seed} without regard to the answers."
    )


def _figure(value: str, name: str) -> str:
    return f'<div class="figure"><b>{escape(value)}</b><span>{escape(name)}</span></div>'


def _cards(findings: Iterable[Finding]) -> str:
    return "\n".join(_card(finding) for finding in findings)


def _card(finding: Finding) -> str:
    who, answer = escape(finding.name), finding.answer
    tone = "good" if finding.good else "unsure" if answer.verdict == "uncertain" else "bad"
    rows = "".join(_row(row, crop, finding) for row, crop in finding.shown)
    return f"""<article class="query">
<div class="asked">{_image(finding.query, f"query: {who}")}
<p><strong>{who}</strong><br>asked by {escape(str(finding.query.camera))}</p></div>
<div class="answer"><header>
<span class="pill {tone}">{VERDICT_WORDS[answer.verdict]}</span>
<span>{escape(finding.outcome)}</span><span>{answer.timing_ms.total:.0f} ms</span></header>
<ol class="ranking">{rows}</ol></div>
</article>"""


def _row(row: RankedCrop, crop: SourceCrop, finding: Finding) -> str:
    right = "right" if row.identity == finding.query.identity else "wrong"
    sure = "–" if row.probability is None else f"{row.probability:.1%}"
    return (
        f'<li class="{right}">{_image(crop, f"rank {row.rank}: {row.identity}")}'
        f"<p><b>{row.rank}.</b> {sure}</p>"
        f'<p class="who">{escape(str(row.identity))} · {escape(str(row.camera))}</p></li>'
    )


def _image(crop: SourceCrop, description: str) -> str:
    data = base64.b64encode(crop.read()).decode("ascii")
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{data}">'
