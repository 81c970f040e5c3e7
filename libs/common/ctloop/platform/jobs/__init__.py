"""Long work outside transactions: leased, fenced, persisted (docs/architecture/delivery.md)."""

from pathlib import Path

from ctloop.platform.jobs.job import Job, JobEnd, JobFailed, Lease, LeaseLost, Runs, Timer, runs
from ctloop.platform.jobs.queue import JobQueue

SCHEMA = Path(__file__).with_name("schema.sql").read_text()

__all__ = ["SCHEMA", "Job", "JobEnd", "JobFailed", "JobQueue", "Lease", "LeaseLost", "Runs", "Timer", "runs"]
