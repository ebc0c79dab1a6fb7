"""The metrics that `/metrics` shows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import get_args

import prometheus_client as prometheus
from prometheus_client import multiprocess
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gmn_client.models import FINISHED, AlertKind, SearchVerdict

# Creation times of counters would add two lines each, and no alert or panel reads them.
prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]


# Folder in which several processes keep their metrics; prometheus_client reads the variable.
METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class Metrics:
    """The service's metrics, in registries of their own so that two services can share a process.

    Labels are routes as they are declared, never client input.

    Attributes:
        counted: values that are summed over the processes behind a port.
        state: values of the record, its disk and the process that answers; set on each scrape.
    """

    def __init__(self) -> None:
        self.counted = prometheus.CollectorRegistry()
        self.state = prometheus.CollectorRegistry()
        counter = partial(prometheus.Counter, registry=self.counted)
        gauge = partial(prometheus.Gauge, registry=self.state)
        histogram = partial(prometheus.Histogram, registry=self.counted)
        prometheus.ProcessCollector(registry=self.state)
        self.requests = counter(
            "gmn_http_requests_total", "Requests answered.", ("method", "route", "status")
        )
        self.request_seconds = histogram(
            "gmn_http_request_seconds",
            "Time from the request's first byte to the answer's last.",
            ("method", "route"),
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
        )
        self.problems = counter(
            "gmn_problems_total", "Problems answered, of requests and of single images.", ("code",)
        )
        # An alert sees an increase only if the series existed before it.
        for code in ("internal_error", "not_embedded", "storage_failed", "queue_full"):
            self.problems.labels(code)
        self.batch_size = histogram(
            "gmn_batch_images",
            "Images in one forward pass.",
            buckets=[2**n for n in range(9)],
        )
        self.device_out_of_memory = counter(
            "gmn_device_out_of_memory_total",
            "Forward passes and searches that the device had no memory for.",
        )
        self.device_gallery_bytes = gauge(
            "gmn_device_gallery_bytes", "Memory of the GPU that vectors of galleries take."
        )
        self.device_gallery_budget_bytes = gauge(
            "gmn_device_gallery_budget_bytes", "Most that they may take; 0 without a GPU."
        )
        self.stage_silent_seconds = gauge(
            "gmn_stage_silent_seconds",
            "Seconds since the last heartbeat of a stage; 0 while it has no work.",
            ("stage",),
        )
        self.images_embedded = counter("gmn_images_embedded_total", "Images embedded.")
        self.cost_in_flight = prometheus.Gauge(
            "gmn_cost_in_flight",
            "Cost of the requests that are worked on, in megapixels.",
            registry=self.counted,
            multiprocess_mode="livesum",
        )
        self.last_start = prometheus.Gauge(
            "gmn_last_start_time_seconds",
            "When the newest of the processes started.",
            registry=self.counted,
            multiprocess_mode="max",
        )
        self.last_start.set_to_current_time()
        self.gallery_calibration = gauge(
            "gmn_gallery_calibration",
            "1 for the state of a gallery's thresholds by its default scoring.",
            ("gallery", "state"),
        )
        self.gallery_crops = gauge("gmn_gallery_crops", "Crops in a gallery.", ("gallery",))
        self.doubtful_crops = gauge(
            "gmn_doubtful_crops", "Doubtful crops of a gallery.", ("gallery",)
        )
        self.gallery_version = gauge("gmn_gallery_version", "Version of a gallery.", ("gallery",))
        self.record_up = gauge("gmn_record_up", "Whether the record store answers.")
        self.index_up = gauge("gmn_index_up", "Whether the last search found its index.")
        self.redis_up = gauge(
            "gmn_redis_up", "1 while Redis answers, or none is named; else processes count alone."
        )
        self.follower_lag = gauge(
            "gmn_follower_lag", "Commits of the record since the one that searches show."
        )
        self.follower_lag_seconds = gauge(
            "gmn_follower_lag_seconds",
            "For how long searches have not shown everything that the record has.",
        )
        self.verdicts = counter("gmn_verdicts_total", "Searches answered.", ("verdict",))
        for verdict in get_args(SearchVerdict):
            self.verdicts.labels(verdict)
        self.jobs = gauge("gmn_jobs", "Jobs that have not ended.", ("state",))
        self.jobs_ended = counter("gmn_jobs_ended_total", "Jobs that have ended.", ("state",))
        for state in FINISHED:
            self.jobs_ended.labels(state)
        self.sightings = counter("gmn_sightings_total", "Sightings accepted.")
        self.sightings_matched = counter(
            "gmn_sightings_matched_total", "Sightings that were a track's best match with a list."
        )
        self.tracks_kept_silent = counter(
            "gmn_tracks_kept_silent_total",
            "Tracks that raised no alert of a list, as one of its silent people explains them.",
        )
        self.alert_seconds = histogram(
            "gmn_alert_seconds",
            "Time from a sighting's last byte to the commit of its alert.",
            buckets=(0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0, 10.0, 60.0),
        )
        self.open_tracks = prometheus.Gauge(
            "gmn_open_tracks",
            "Tracks of sightings that have not ended.",
            registry=self.counted,
            multiprocess_mode="livesum",
        )
        self.tracks_forgotten = counter(
            "gmn_tracks_forgotten_total", "Tracks that were ended early, as too many were open."
        )
        self.cameras = gauge(
            "gmn_cameras",
            "Cameras that send heartbeats, by state: ok, trouble, silent.",
            ("state",),
        )
        self.camera_clock = gauge(
            "gmn_cameras_clock_ahead_seconds",
            "How far the times of a camera are ahead of the service's clock when they arrive; "
            "below zero its clock is slow, or its crops arrive late.",
            ("key_id", "camera"),
        )
        self.watch_lists = gauge(
            "gmn_watch_lists",
            "Armed watch lists, by state: compared, impaired, not_compared, paused.",
            ("state",),
        )
        self.alerts = counter("gmn_alerts_total", "Alerts of watch lists.", ("kind",))
        for kind in get_args(AlertKind):
            self.alerts.labels(kind)
        self.alerts_removed = counter(
            "gmn_alerts_removed_total", "Alerts that gave place to newer ones before their days."
        )
        self.webhook_dropped = counter(
            "gmn_webhook_dropped_total",
            "Alerts that were not sent to a webhook, as too many waited for it.",
        )
        self.webhook_deliveries = gauge(
            "gmn_webhook_deliveries", "Deliveries of kept alerts to webhooks.", ("state",)
        )
        self.audit_dropped = counter(
            "gmn_audit_dropped_lines_total",
            "Searches and views that the audit log counts alone, as it could not be written.",
        )
        self.audit_newest_line = gauge(
            "gmn_audit_newest_line", "Number of the newest line of the audit log."
        )
        self.disk_bytes = gauge("gmn_disk_bytes", "Size of the data directory's disk.")
        self.disk_free_bytes = gauge("gmn_disk_free_bytes", "Free bytes of that disk.")
        self.backup_time = gauge(
            "gmn_backup_last_time_seconds", "When the last backup was made; 0 for none."
        )
        self.backup_every = gauge(
            "gmn_backup_every_seconds", "Time from one backup to the next; 0 for no backups."
        )
        self.damaged_crops = gauge(
            "gmn_damaged_crops", "Damaged crops that this process leaves out of every answer."
        )
        self.record_problems = gauge(
            "gmn_record_problems", "Other damage that was found in the record's file."
        )
        self.record_bytes = gauge("gmn_record_bytes", "The SQLite file with its log.")

    def text(self) -> bytes:
        counted = self.counted
        if METRICS_VARIABLE in os.environ:
            counted = prometheus.CollectorRegistry()
            counted.register(_AllProcesses({family.name for family in self.state.collect()}))
        return prometheus.generate_latest(counted) + prometheus.generate_latest(self.state)


class _AllProcesses(Collector):
    """Collects the metrics that processes keep in files, without those of one process."""

    def __init__(self, left_out: set[str]) -> None:
        self._left_out = left_out

    def collect(self) -> Iterator[Metric]:
        registry = prometheus.CollectorRegistry()
        merged = multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        for family in merged.collect():  # type: ignore[no-untyped-call]
            if family.name not in self._left_out:
                yield family
