"""Prometheus metrics. Names follow OpenTelemetry's GenAI conventions where these name the thing.

Histograms are observed as things happen. Everything that is counted anyway (tallies, the queue, the
cache) is read when somebody scrapes, so that rounds do not pay for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edge_server.admission import RateError
from edge_server.job_times import Ran
from edge_server.scheduler import BusyError
from edge_server.status import Status
from edge_server.tally import Tally

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Operation = Literal["text_completion", "chat"]

_SECONDS = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0,
)  # fmt: skip
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_OPERATION = "gen_ai_operation_name"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a completion cost."""

    prompt_tokens: int
    written_tokens: int
    seconds: float
    """From its first job to its last token."""
    first_token_s: float | None
    per_token_s: float | None
    """Of those after the first."""


class Metrics:
    """One server's metrics, in a registry of their own."""

    def __init__(self, status: Callable[[], Status]) -> None:
        """status: how things stand, asked for at every scrape."""
        self.total = Tally()
        """Of all sessions and completions since the start."""
        self._registry = CollectorRegistry()
        self._define_completions(self._registry)
        self._define_batches(self._registry)
        self._registry.register(_Standing(status, self.total))

    def _define_completions(self, registry: CollectorRegistry) -> None:
        seconds = partial(Histogram, registry=registry, buckets=_SECONDS)
        self._request_s = seconds(
            "gen_ai_server_request_duration_seconds", "Completions over HTTP, whole",
            (_OPERATION, "error_type"),
        )  # fmt: skip
        self._first_s = seconds(
            "gen_ai_server_time_to_first_token_seconds", "Completions over HTTP", (_OPERATION,)
        )
        self._per_token_s = seconds(
            "gen_ai_server_time_per_output_token_seconds",
            "Completions over HTTP, after the first token", (_OPERATION,),
        )  # fmt: skip
        self._usage = Counter(
            "tandem_completion_tokens", "Tokens of completions over HTTP",
            (_OPERATION, "gen_ai_token_type"), registry=registry,
        )  # fmt: skip

    def _define_batches(self, registry: CollectorRegistry) -> None:
        seconds = partial(Histogram, registry=registry, buckets=_SECONDS)
        counts = partial(Histogram, registry=registry, buckets=_COUNTS)
        self._job_s = seconds(
            "tandem_job_seconds", "A job, from the queue to its result", ("kind",)
        )
        self._wait_s = seconds("tandem_queue_wait_seconds", "A job, before its batch begins")
        self._batch_s = seconds("tandem_batch_seconds", "A batch, in the engine")
        self._batch_jobs = counts("tandem_batch_jobs", "Jobs in a batch")
        self._batch_tokens = counts("tandem_batch_tokens", "New tokens in a batch")
        self._refused = Counter(
            "tandem_refused", "Requests and messages that met a limit", ("limit",),
            registry=registry,
        )  # fmt: skip
        # Children are looked up once: a lookup costs as much as the counting.
        self._prompt_s = self._job_s.labels("prompt")
        self._round_s = self._job_s.labels("round")

    def batch_ran(self, ran: Ran) -> None:
        """A batch is done."""
        self._batch_s.observe(ran.seconds)
        self._batch_jobs.observe(ran.num_jobs)
        self._batch_tokens.observe(ran.num_tokens)
        for done in ran.done:
            self._wait_s.observe(done.waited_s)
            (self._prompt_s if done.is_prompt else self._round_s).observe(done.seconds)

    def refused(self, error: BusyError) -> None:
        """Something was put off."""
        self._refused.labels("client" if isinstance(error, RateError) else "server").inc()

    def completion_done(self, operation: Operation, usage: Usage, error: str) -> None:
        """A completion over HTTP is over; error: what kind, empty if it went well."""
        self._request_s.labels(operation, error).observe(usage.seconds)
        self._usage.labels(operation, "input").inc(usage.prompt_tokens)
        self._usage.labels(operation, "output").inc(usage.written_tokens)
        if usage.first_token_s is not None:
            self._first_s.labels(operation).observe(usage.first_token_s)
        if usage.per_token_s is not None:
            self._per_token_s.labels(operation).observe(usage.per_token_s)

    def text(self) -> bytes:
        """What a scrape gets."""
        return generate_latest(self._registry)


class _Standing(Collector):
    """What is read rather than observed."""

    def __init__(self, status: Callable[[], Status], total: Tally) -> None:
        self._status = status
        self._total = total

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry must not ask for the state while the server is being made."""
        return ()

    def collect(self) -> Iterator[Metric]:
        yield from _speculation(self._total)
        status = self._status()
        yield _gauge("tandem_ready", "1 while new sessions are welcome", int(status.ready))
        replicas = GaugeMetricFamily("tandem_replicas", "Copies of the model", labels=["state"])
        replicas.add_metric(["serving"], status.replicas)
        replicas.add_metric(["lost"], status.replicas_lost)
        yield replicas
        yield _gauge("tandem_queue_jobs", "Jobs that wait or run", status.queue_jobs)
        yield _gauge("tandem_completions", "Completions over HTTP that run", status.completions)
        sessions = GaugeMetricFamily("tandem_sessions", "Device sessions", labels=["state"])
        sessions.add_metric(["connected"], status.connected)
        sessions.add_metric(["waiting"], status.waiting)
        yield sessions
        yield _gauge("tandem_cache_capacity_tokens", "Of all texts", status.cache_capacity_tokens)
        if status.cache_used_tokens is not None:
            yield _gauge("tandem_cache_used_tokens", "Of all texts", status.cache_used_tokens)
        yield _count("tandem_cache_evictions", "Texts that lost their cache", status.evictions)
        if status.gpu is not None:
            yield _gauge("tandem_gpu_memory_used_bytes", "Whole device", status.gpu.used_bytes)
            yield _gauge("tandem_gpu_memory_total_bytes", "Whole device", status.gpu.total_bytes)


def _speculation(total: Tally) -> Iterator[Metric]:
    rounds = CounterMetricFamily(
        "tandem_speculation_rounds", "Verdicts, by what became of the block", labels=["outcome"]
    )
    empty = total.rounds - total.full_rounds - total.partial_rounds - total.zero_rounds
    for outcome, count in (
        ("full", total.full_rounds),
        ("partial", total.partial_rounds),
        ("zero", total.zero_rounds),
        ("empty", empty),
    ):
        rounds.add_metric([outcome], count)
    yield rounds
    tokens = CounterMetricFamily(
        "tandem_speculation_tokens", "Drafted tokens and what came of them", labels=["kind"]
    )
    for kind in ("proposed", "evaluated", "accepted", "corrections", "bonus"):
        tokens.add_metric([kind], getattr(total, kind))
    yield tokens
    yield _count("tandem_streamed_tokens", "Written by the LLM without drafts", total.streamed)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _count(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)
