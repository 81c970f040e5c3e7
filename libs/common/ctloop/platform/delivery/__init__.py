"""Exactly-once effect: at-least-once delivery, one committed disposition per record (docs/architecture/delivery.md)."""

from pathlib import Path

from ctloop.platform.delivery.edge import Edge
from ctloop.platform.delivery.hears import Command, Heard, Hears, IdempotencyConflict, Refused, Said, on
from ctloop.platform.delivery.work import UnitOfWork

SCHEMA = Path(__file__).with_name("schema.sql").read_text()

__all__ = ["SCHEMA", "Command", "Edge", "Heard", "Hears", "IdempotencyConflict", "Refused", "Said", "UnitOfWork", "on"]
