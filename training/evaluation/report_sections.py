"""Sections of a report beside its data sets: rank lists, premise, cost, training, provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape

from training.evaluation import figures
from training.evaluation.grouping import flat
from training.evaluation.markup import (
    NOTHING,
    charts,
    count,
    difference,
    paragraph,
    percent,
    picture,
    section,
    table,
)
from training.evaluation.pictures import SearchPictures
from training.evaluation.results import (
    CostResult,
    DomainGap,
    EvaluationReport,
    PremiseResult,
    RankedCrop,
    RankList,
    SpaceGap,
)
from training.evaluation.training_log import TrainingLog


def rank_lists_part(lists: Sequence[RankList], pictures: SearchPictures) -> str:
    """Queries with their best answers, true ones green and false ones red."""
    if not lists:
        return ""
    shown = "".join(_rank_list(ranks, pictures) for ranks in lists)
    return (
        "<h3>Rank lists</h3>"
        + paragraph(
            "Queries spaced evenly from the hardest to the easiest. Green: who was searched for; "
            "red: another person.",
            "note",
        )
        + f'<div class="ranks">{shown}</div>'
    )


def premise_section(premise: PremiseResult | None) -> str:
    """The domain gap in both spaces, and both spaces as t-SNE draws them."""
    if premise is None:
        return ""
    return section(
        "The premise: is the domain gap smaller in pair space?",
        [
            paragraph(
                f"Both spaces through the same crops of {premise.people} people a domain: "
                f"{premise.points} crops, and as many pairs of them "
                f"({escape(premise.pair_feature)}), half of them one person's. Both are of unit "
                "length. MMD² is unbiased, near 0 for one and the same domain; by chance it stays "
                "below the number given 95 times in 100. The classifier names a point's domain, "
                "cross-validated over people: 50% is chance."
            ),
            *(paragraph(_verdict(gap)) for gap in premise.gaps),
            table(
                "Domain gap",
                [
                    "domains",
                    "space",
                    "MMD²",
                    "by chance",
                    "× chance",
                    "same domain",
                    "classifier, %",
                    "same domain, %",
                ],
                [
                    [escape(" – ".join(gap.domains)), name, *_space_cells(space)]
                    for gap in premise.gaps
                    for name, space in (("instance", gap.instance), ("pair", gap.pair))
                ],
                "same domain: between two halves of one",
                kind="named",
            ),
            charts([figures.projection_figure(one) for one in premise.projections]),
        ],
    )


def cost_section(cost: CostResult | None) -> str:
    """Parameters, work and speed."""
    if cost is None:
        return ""
    speeds = [
        [what, f"{rate:,.0f}"]
        for what, rate in (
            ("crops a second, decoded and embedded", cost.crops_per_second),
            ("pairs a second, scored by M-Net", cost.pairs_per_second),
        )
        if rate is not None
    ]
    return section(
        "Cost",
        [
            table(
                "Networks",
                ["", "parameters", "multiply-adds"],
                [
                    [
                        "embedder, one crop",
                        count(cost.embedder_parameters),
                        count(cost.embedder_multiply_adds),
                    ],
                    *(
                        [
                            [
                                "M-Net, one pair",
                                count(cost.metric_network_parameters),
                                count(cost.pair_multiply_adds),
                            ]
                        ]
                        if cost.metric_network_parameters
                        else []
                    ),
                ],
                "a multiplication with its addition counts once, as the papers count FLOPs",
            ),
            table("Speed in this run", ["", "a second"], speeds),
        ],
    )


def training_section(log: TrainingLog | None, checkpoint: str = "") -> str:
    """A run's learning curves, and which of its weights were measured."""
    if log is None or not log.losses:
        return paragraph(escape(checkpoint)) if checkpoint else ""
    drawings = [
        figures.curve_figure("Loss terms", "loss", log.losses, "Every loss term over the epochs")
    ]
    if log.gradient_norms:
        drawings.append(
            figures.curve_figure(
                "Gradient norms at the embedding",
                "norm",
                log.gradient_norms,
                "The norm of every loss term's gradient over the epochs",
            )
        )
    drawings += [
        figures.validation_figure(name, curves)
        for name, curves in (("mAP", log.mean_average_precision), ("Rank-1", log.rank_1))
        if curves
    ]
    return section(
        "Training", [paragraph(escape(checkpoint)), charts(drawings), _validation_table(log)]
    )


def _validation_table(log: TrainingLog) -> str:
    """Every validation's figures, a row an epoch that was measured."""
    if not log.mean_average_precision:
        return ""
    epochs = next(iter(log.mean_average_precision.values()))[0]
    columns = [
        (f"{name} {metric}", values)
        for name in log.mean_average_precision
        for metric, (_, values) in (
            ("mAP", log.mean_average_precision[name]),
            ("Rank-1", log.rank_1[name]),
        )
    ]
    return table(
        "Held-out people while training, %",
        ["epoch", *(escape(name) for name, _ in columns)],
        [
            [f"{epoch:g}", *(f"{100 * values[row]:.1f}" for _, values in columns)]
            for row, epoch in enumerate(epochs)
        ],
        "a part of the people held out",
    )


def artefact_section(report: EvaluationReport) -> str:
    """What the artefact was trained on and under which terms, its configuration and origin."""
    provenance = report.provenance
    about = {
        "artefact_fingerprint": report.artefact_fingerprint,
        "embedding_fingerprint": report.embedding_fingerprint,
        "calibrated_on": report.calibration_data,
    } | provenance.model_dump(mode="json", exclude={"data", "recipe", "metrics"})
    return section(
        "The artefact",
        [
            paragraph(escape(provenance.terms)),
            table(
                "Training data",
                ["set", "crops", "identities", "cameras", "terms"],
                [
                    [
                        escape(data.name),
                        f"{data.crops:,}",
                        f"{data.identities:,}",
                        f"{data.cameras:,}",
                        escape(data.terms),
                    ]
                    for data in provenance.data
                ],
                kind="words",
            ),
            table(
                "Weights from elsewhere",
                ["weights", "role", "trained on", "terms"],
                [
                    [
                        escape(source.name),
                        source.role,
                        escape(
                            ", ".join(
                                [*(data.name for data in source.data), *source.documented_data]
                            )
                            or "not documented"
                        ),
                        escape(source.terms) or NOTHING,
                    ]
                    for source in provenance.all_sources
                ],
                kind="words",
            ),
            _details("Configuration", _settings(provenance.recipe or report.architecture)),
            _details("Provenance", f"<pre>{_json(about)}</pre>"),
        ],
    )


def _rank_list(ranks: RankList, pictures: SearchPictures) -> str:
    shot = pictures.queries.get(ranks.row)
    who = f"{ranks.identity}, camera {ranks.camera}"
    query = picture(shot, f"query: {who}") if shot else ""
    lines = []
    for name, ranked in ranks.ranked.items():
        precision = 100 * ranks.average_precision[name]
        crops = "".join(_ranked(place, crop, pictures) for place, crop in enumerate(ranked, 1))
        lines.append(f"<div><h4>{escape(name)}, AP {precision:.0f}%</h4><ol>{crops}</ol></div>")
    return (
        f'<article><div class="asked">{query}<span>query<br>{escape(who)}</span></div>'
        f'<div class="answers">{"".join(lines)}</div></article>'
    )


def _ranked(place: int, crop: RankedCrop, pictures: SearchPictures) -> str:
    shot = pictures.gallery.get(crop.row)
    answer = "right" if crop.right else "wrong"
    alt = f"rank {place}, {answer}: {crop.identity}, camera {crop.camera}"
    inside = picture(shot, alt) if shot else ""
    mark = "✓" if crop.right else "✗"
    title = f"{alt}, score {crop.score:.3g}"
    return (
        f'<li class="{answer}" title="{escape(title)}">{inside}{mark} {escape(crop.identity)}</li>'
    )


def _verdict(gap: DomainGap) -> str:
    """What the two measures say of two domains, in a sentence."""
    change = gap.classifier_difference
    if change.high < 0:
        claim = '<b class="good">Smaller in pair space</b> by the classifier'
    elif change.low > 0:
        claim = '<b class="bad">Larger in pair space</b> by the classifier'
    else:
        claim = "<b>Not distinguishable</b> by the classifier"
    return (
        f"{escape(' and '.join(gap.domains))}: {claim}, {difference(change, -1)} percentage "
        f"points; MMD² is {_times(gap.pair):.1f} times chance in pair space and "
        f"{_times(gap.instance):.1f} times in instance space."
    )


def _times(space: SpaceGap) -> float:
    return space.mmd / space.mmd_by_chance if space.mmd_by_chance > 0 else float("inf")


def _space_cells(space: SpaceGap) -> list[str]:
    return [
        f"{space.mmd:.4f}".replace("-", "−"),
        f"{space.mmd_by_chance:.4f}",
        f"{_times(space):.1f}",
        f"{space.mmd_same_domain:.4f}".replace("-", "−"),
        percent(space.classifier),
        f"{100 * space.classifier_same_domain:.1f}",
    ]


def _settings(recipe: Mapping[str, object]) -> str:
    rows = [[escape(key), escape(str(value))] for key, value in flat(recipe).items()]
    return table("Every setting", ["setting", "value"], rows, kind="words")


def _details(title: str, inside: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{inside}</details>"


def _json(content: Mapping[str, object]) -> str:
    return escape(json.dumps(content, indent=2, ensure_ascii=False))
