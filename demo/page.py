"""The demonstration as one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from string import Template

from demo.findings import Finding, Findings, RankedPicture

VERDICT_WORDS = {
    "match": "match",
    "uncertain": "uncertain",
    "no_match": "no match",
    "nothing_searched": "nothing searched",
}


def render_page(findings: Findings, known: int, strangers: int) -> str:
    """Renders the page; it loads nothing from anywhere.

    Args:
        findings: what to show.
        known, strangers: how many queries of each to show; the figures count all of them.
    """
    template = Template((files("demo") / "page.html").read_text(encoding="utf-8"))
    shown = findings.shown(known, strangers)
    return template.substitute(
        lead=_lead(findings),
        figures="".join(_figure(value, name) for value, name in figures(findings)),
        known=_cards(one for one in shown if one.enrolled),
        strangers=_cards(one for one in shown if not one.enrolled),
        footer=f"Embedder {escape(findings.model)}, computed on {escape(findings.device)}.",
    )


def figures(findings: Findings) -> list[tuple[str, str]]:
    """The headline figures, each with what it counts."""
    return [
        (f"{findings.rank_1:.0%}", f"Rank-1 with M-Net, {len(findings.known)} queries"),
        (f"{findings.rank_1_cosine:.0%}", "Rank-1 with cosine alone"),
        (f"{findings.found} of {len(findings.known)}", "known people answered match, rightly"),
        (
            f"{findings.false_alarms} of {len(findings.strangers)}",
            "strangers answered match (false alarms)",
        ),
        (f"{findings.milliseconds:.0f} ms", "per query, in the service"),
        (f"{findings.crops_per_second:.0f}/s", "crops enrolled"),
    ]


def _lead(findings: Findings) -> str:
    return (
        f"{findings.crops} crops of {findings.people} drawn people from {findings.cameras} cameras "
        f"were enrolled. Then one more camera asked for {len(findings.known)} of them and for "
        f"{len(findings.strangers)} strangers: whom does each crop show, and how sure is that?"
    )


def _figure(value: str, name: str) -> str:
    return f'<div class="figure"><b>{escape(value)}</b><span>{escape(name)}</span></div>'


def _cards(findings: Iterable[Finding]) -> str:
    return "\n".join(_card(finding) for finding in findings)


def _card(finding: Finding) -> str:
    who = escape(finding.query.identity) if finding.enrolled else "a stranger"
    tone = "good" if finding.good else "unsure" if finding.verdict == "uncertain" else "bad"
    rows = "".join(_row(row) for row in finding.ranking)
    return f"""<article class="query">
<div class="asked">{_image(finding.query.png, f"query: {who}")}
<p><strong>{who}</strong><br>asked by {escape(finding.query.camera)}</p></div>
<div class="answer"><header>
<span class="pill {tone}">{VERDICT_WORDS[finding.verdict]}</span>
<span>{escape(finding.outcome)}</span><span>{finding.milliseconds:.0f} ms</span></header>
<ol class="ranking">{rows}</ol></div>
</article>"""


def _row(row: RankedPicture) -> str:
    sure = "–" if row.probability is None else f"{row.probability:.1%}"
    return (
        f'<li class="{"right" if row.right else "wrong"}">'
        f"{_image(row.crop.png, f'rank {row.rank}: {row.crop.identity}')}"
        f"<p><b>{row.rank}.</b> {sure}</p>"
        f'<p class="who">{escape(row.crop.identity)} · {escape(row.crop.camera)}</p></li>'
    )


def _image(png: bytes, description: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{data}">'
