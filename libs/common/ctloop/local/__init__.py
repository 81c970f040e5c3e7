"""The embedded stack: real Kafka, PostgreSQL, S3, MLflow and Ray, and our services, as supervised processes."""

from ctloop.local.control import COMPONENTS, data_dir_of, down, kill, log_path, status, up
from ctloop.local.environment import SERVICES
from ctloop.local.state import Stack, Status

__all__ = ["COMPONENTS", "SERVICES", "Stack", "Status", "data_dir_of", "down", "kill", "log_path", "status", "up"]
