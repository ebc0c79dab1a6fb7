"""Spans of requests, sent to the collector that a variable of OpenTelemetry names."""

from __future__ import annotations

import os
import threading
import time
from http import HTTPStatus

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gmn_client.models import Timing
from model.problems import InputProblem

SERVICE_NAME = "gmn-reid"
# Spans that the collector has not taken this long after the stop are lost.
CLOSE_SECONDS = 5.0


class Tracing:
    """Makes a span of each request, and sends spans from a thread of its own.

    Spans have the route, and no path, query, header or label, as those name people. If the
    collector is slow, spans are dropped.
    """

    def __init__(self) -> None:
        """Read the variables of OpenTelemetry, and begin to send.

        Raises:
            InputProblem: OpenTelemetry refuses one of them.
        """
        try:
            self._provider = _make_provider()
        # Each part of OpenTelemetry raises another error for a wrong value.
        except Exception as error:
            names = sorted(name for name in os.environ if name.startswith("OTEL_"))
            raise InputProblem(
                f"OpenTelemetry refuses the value of one of its variables ({error}); correct or "
                f"unset it: {', '.join(names)}"
            ) from error
        self._tracer = self._provider.get_tracer(SERVICE_NAME)
        self._propagator = TraceContextTextMapPropagator()

    def record(
        self,
        traceparent: str,
        method: str,
        route: str | None,
        status: int,
        seconds: float,
        timing: Timing | None,
    ) -> str:
        """Record the span of a request that ends now.

        Args:
            traceparent: that header of the request, empty without one.
            method: a method of HTTP, or "other" for an invented one.
            route: template of the path; None if no route was found.
            seconds: from the request to the end of its answer.
            timing: stages of a query; None for other requests.

        Returns:
            The id of the trace, in hexadecimal digits.
        """
        ended_ns = time.time_ns()
        attributes: dict[str, str | int | float] = {
            "http.request.method": "_OTHER" if method == "other" else method,
            "http.response.status_code": status,
        }
        # The conventions name such a span by this word.
        name = "HTTP" if method == "other" else method
        if route is not None:
            attributes["http.route"] = route
            name = f"{name} {route}"
        if timing is not None:
            stages = timing.model_dump(exclude={"total"})
            attributes |= {f"gmn.{stage}_ms": value for stage, value in stages.items()}
        is_failure = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        if is_failure:
            attributes["error.type"] = str(status)
        span = self._tracer.start_span(
            name,
            # The header tracestate is left out: what it contains would be sent on.
            context=self._propagator.extract({"traceparent": traceparent}),
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=ended_ns - int(seconds * 1e9),
        )
        if is_failure:
            span.set_status(StatusCode.ERROR)
        span.end(ended_ns)
        return format_trace_id(span.get_span_context().trace_id)

    def close(self) -> None:
        """Send the remaining spans; blocks for a few seconds at most."""
        # The provider itself waits up to 30 seconds for a collector that does not answer.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


def _make_provider() -> TracerProvider:
    # Names that the operator has set by the standard variables.
    names = OTELResourceDetector().detect().attributes
    provider = TracerProvider(resource=Resource.create({"service.name": SERVICE_NAME, **names}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
