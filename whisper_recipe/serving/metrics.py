"""A server's metrics, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900)  # upper bounds of the histograms


class Metrics:
    """The metrics of one server, in a separate registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        names = {"namespace": "whisper_recipe", "registry": self.registry}
        self.requests = Counter("requests", "Requests answered", ["path", "status"], **names)
        self.request_seconds = Histogram(
            "request_seconds",
            "Seconds from the first byte of a request to the last byte of its response",
            ["path"],
            buckets=SECONDS,
            **names,
        )
        self.audio_seconds = Counter("audio_seconds", "Seconds of audio received", ["model"], **names)
        self.requests_in_queue = Gauge("requests_in_queue", "Requests in progress or waiting", **names)
        self.windows_waiting = Gauge("windows_waiting", "Windows of audio waiting to be decoded", **names)
        self.batch_size = Histogram("batch_size", "Windows decoded together", buckets=(1, 2, 4, 8, 16, 32, 64), **names)
        self.realtime_final_seconds = Histogram(
            "realtime_final_seconds", "Seconds from the end of an utterance to its text", buckets=SECONDS, **names
        )
