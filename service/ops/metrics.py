"""What `/metrics` shows."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)


class Metrics:
    """The service's counters, in a registry of their own so that two services can share a process.

    Labels are routes as they are declared, never what a client wrote.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "gmn_http_requests_total",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "gmn_http_request_seconds",
            "Time from the request's first byte to the answer's last.",
            ("method", "route"),
            registry=self.registry,
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
        )
        self.problems = Counter(
            "gmn_problems_total",
            "Problems answered, of requests and of single images.",
            ("code",),
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "gmn_batch_images",
            "Images in one forward pass.",
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        )
        self.batch_limit = Gauge(
            "gmn_batch_limit",
            "Images in one forward pass at most, as the device's memory has it.",
            registry=self.registry,
        )
        self.device_out_of_memory = Counter(
            "gmn_device_out_of_memory_total",
            "Forward passes and searches that the device had no memory for.",
            registry=self.registry,
        )
        self.stage_silent_seconds = Gauge(
            "gmn_stage_silent_seconds",
            "Seconds since the last heartbeat of a stage; 0 while it has no work.",
            ("stage",),
            registry=self.registry,
        )
        ProcessCollector(namespace="gmn", registry=self.registry)
        self.images_embedded = Counter(
            "gmn_images_embedded_total", "Images embedded.", registry=self.registry
        )
        self.queued_images = Gauge(
            "gmn_queued_images", "Images admitted and not yet answered.", registry=self.registry
        )
        self.gallery_crops = Gauge(
            "gmn_gallery_crops", "Crops in a gallery.", ("gallery",), registry=self.registry
        )
        self.gallery_version = Gauge(
            "gmn_gallery_version", "Version of a gallery.", ("gallery",), registry=self.registry
        )
        self.record_up = Gauge(
            "gmn_record_up", "Whether the record store answers.", registry=self.registry
        )
        self.follower_lag = Gauge(
            "gmn_follower_lag",
            "Changes of the record that searches do not show yet.",
            registry=self.registry,
        )
        self.follower_lag_seconds = Gauge(
            "gmn_follower_lag_seconds",
            "For how long searches have not shown everything that the record has.",
            registry=self.registry,
        )

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)
