"""Grafana's dashboards: `python -m bench.dashboards` writes them to docker/grafana.

grafana-foundation-sdk makes them, so that a panel here is a title, a unit, a description, and the
expressions that it draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef

from bench.tables import ROOT

PLACE = ROOT / "docker" / "grafana"
SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
# Title, unit and description of a panel, and the names of its lines by their expressions.
Panel = tuple[str, str, str, Mapping[str, str]]
QUERY = 'route="/v1/galleries/{gallery}/queries"'
QUANTILE = "histogram_quantile(%s, sum by (le) (rate(gmn_http_request_seconds_bucket{%s}[5m])))"
ENROLL = 'route="/v1/galleries/{gallery}/crops",method="POST"'

# Each of these panels, which are at the top, shows one number.
NUMBERS: Sequence[Panel] = (
    (
        "Containers",
        "none",
        "Those that answer: two while one is replaced.",
        {'sum(up{job="gmn"})': ""},
    ),
    ("Crops", "short", "In all galleries.", {"sum(max by (gallery) (gmn_gallery_crops))": ""}),
    (
        "Disk free",
        "percentunit",
        "Of the disk of the data directory.",
        {"min(gmn_disk_free_bytes / gmn_disk_bytes)": ""},
    ),
    (
        "Last backup",
        "s",
        "Its age, where the service makes backups.",
        {"time() - (max(gmn_backup_last_time_seconds) > 0)": ""},
    ),
)
SERVICE: Sequence[Panel] = (
    (
        "Requests",
        "reqps",
        "Answered requests by status.",
        {"sum by (status) (rate(gmn_http_requests_total[5m]))": "{{status}}"},
    ),
    (
        "Time of a query",
        "s",
        "From its first byte to the last byte of its answer.",
        {QUANTILE % (share, QUERY): f"{name} of 100" for share, name in ((0.5, 50), (0.95, 95))},
    ),
    (
        "Time of an enrollment",
        "s",
        "Of a request with any number of images.",
        {QUANTILE % (share, ENROLL): f"{name} of 100" for share, name in ((0.5, 50), (0.95, 95))},
    ),
    (
        "Problems",
        "reqps",
        "By code; docs/reference.md has the remedies.",
        {"sum by (code) (rate(gmn_problems_total[5m])) > 0": "{{code}}"},
    ),
    (
        "Images embedded",
        "ops",
        "By container.",
        {"rate(gmn_images_embedded_total[5m])": "{{instance}}"},
    ),
    (
        "Cost in flight",
        "none",
        "At GMN_MAX_COST further requests wait, then get 429.",
        {"gmn_cost_in_flight": "{{instance}}"},
    ),
    (
        "Images in one pass",
        "none",
        "Near 1 the device waits for requests, near GMN_MAX_BATCH they wait for it.",
        {
            "rate(gmn_batch_images_sum[5m]) / rate(gmn_batch_images_count[5m])": "{{instance}}",
        },
    ),
    (
        "Silent parts",
        "s",
        "With work and without progress; at GMN_STALL_SECONDS the process ends.",
        {"gmn_stage_silent_seconds > 10": "{{instance}} {{stage}}"},
    ),
    (
        "Memory",
        "bytes",
        "Resident, of the process that was asked.",
        {'process_resident_memory_bytes{job="gmn"}': "{{instance}}"},
    ),
    (
        "Processor",
        "none",
        "Cores in use, of the process that was asked.",
        {'rate(process_cpu_seconds_total{job="gmn"}[5m])': "{{instance}}"},
    ),
    (
        "Open files",
        "percentunit",
        "Share of the limit, of the process that was asked.",
        {'process_open_fds{job="gmn"} / process_max_fds{job="gmn"}': "{{instance}}"},
    ),
    (
        "Behind the record",
        "s",
        "Time for which a process has not shown everything that is stored.",
        {"gmn_follower_lag_seconds": "{{instance}}"},
    ),
)
DATA: Sequence[Panel] = (
    (
        "Verdicts",
        "percentunit",
        "Share of searches; one that moves shows other cameras, other people, or thresholds that "
        "no longer fit.",
        {
            "sum by (verdict) (rate(gmn_verdicts_total[1h])) / ignoring(verdict) group_left "
            "sum(rate(gmn_verdicts_total[1h]))": "{{verdict}}"
        },
    ),
    (
        "Thresholds",
        "none",
        "Galleries by the state of their thresholds.",
        {"count by (state) (max by (gallery, state) (gmn_gallery_calibration))": "{{state}}"},
    ),
    (
        "Crops by gallery",
        "short",
        "The ten largest.",
        {"topk(10, max by (gallery) (gmn_gallery_crops))": "{{gallery}}"},
    ),
    (
        "Changes",
        "ops",
        "Versions a second, by gallery.",
        {"topk(10, max by (gallery) (rate(gmn_gallery_version[5m])))": "{{gallery}}"},
    ),
    (
        "Jobs",
        "none",
        "That have not ended, and that ended within the hour.",
        {
            "max by (state) (gmn_jobs)": "{{state}}",
            "sum by (state) (increase(gmn_jobs_ended_total[1h]))": "{{state}} within the hour",
        },
    ),
    (
        "Disk",
        "bytes",
        "Free bytes of the data directory's disk.",
        {"gmn_disk_free_bytes": "{{instance}}"},
    ),
    (
        "Record",
        "bytes",
        "The SQLite file with its log.",
        {"max(gmn_record_bytes)": "record"},
    ),
    (
        "Record, index and Redis",
        "bool_yes_no",
        "Whether the record can be read, and whether Milvus and Redis answer, where they are used.",
        {
            "gmn_record_up": "{{instance}} record",
            "gmn_index_up": "{{instance}} index",
            "gmn_redis_up": "{{instance}} Redis",
        },
    ),
    (
        "Audit lines dropped",
        "none",
        "Searches and views that are counted alone, as the log cannot be written.",
        {"increase(gmn_audit_dropped_lines_total[1h])": "{{instance}}"},
    ),
    (
        "Out of device memory",
        "none",
        "Passes within the hour.",
        {"increase(gmn_device_out_of_memory_total[1h])": "{{instance}}"},
    ),
)


def _targets(builder: stat.Panel | timeseries.Panel, panel: Panel) -> None:
    title, unit, description, lines = panel
    builder.title(title).unit(unit).description(description).datasource(SOURCE)
    for letter, (expression, name) in zip("ABCDEF", lines.items(), strict=False):
        query = prometheus.Dataquery().expr(expression).legend_format(name).ref_id(letter)
        builder.with_target(query)


def _dashboard(uid: str, title: str, panels: Sequence[Panel]) -> str:
    builder = (
        dashboard.Dashboard(title)
        .uid(uid)
        .tags(["gmn"])
        .readonly()
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .with_row(dashboard.Row("Now"))
    )
    last = common.ReduceDataOptions().calcs(["lastNotNull"])
    for place, panel in enumerate(NUMBERS, 1):
        number = stat.Panel().id(place).height(4).span(6).reduce_options(last)
        _targets(number, panel)
        builder.with_panel(number)
    builder.with_row(dashboard.Row("Over time"))
    legend = (
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    for place, panel in enumerate(panels, 1 + len(NUMBERS)):
        chart = (
            timeseries.Panel().id(place).height(8).span(12).min(0).fill_opacity(10).legend(legend)
        )
        _targets(chart, panel)
        builder.with_panel(chart)
    return JSONEncoder(sort_keys=True, indent=1).encode(builder.build()) + "\n"


def dashboards() -> dict[str, str]:
    return {
        "service.json": _dashboard("gmn-service", "Service", SERVICE),
        "galleries.json": _dashboard("gmn-galleries", "Galleries and data", DATA),
    }


if __name__ == "__main__":
    PLACE.mkdir(exist_ok=True)
    for name, text in dashboards().items():
        (PLACE / name).write_text(text, encoding="utf-8")
