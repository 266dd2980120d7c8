"""What a server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900)  # upper bounds of the histograms


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        names = {"namespace": "whisper_recipe", "registry": self.registry}
        self.requests = Counter("requests", "Requests that were answered", ["path", "status"], **names)
        self.request_seconds = Histogram(
            "request_seconds",
            "From a request's first byte to the last one of its answer",
            ["path"],
            buckets=SECONDS,
            **names,
        )
        self.audio_seconds = Counter("audio_seconds", "Seconds of audio taken in", ["model"], **names)
        self.requests_in_queue = Gauge("requests_in_queue", "Requests that are worked on or wait", **names)
        self.windows_waiting = Gauge("windows_waiting", "Windows of audio that wait to be decoded", **names)
        self.batch_size = Histogram(
            "batch_size", "Windows that were decoded together", buckets=(1, 2, 4, 8, 16, 32, 64), **names
        )
        self.realtime_final_seconds = Histogram(
            "realtime_final_seconds", "From the end of an utterance to its text", buckets=SECONDS, **names
        )
