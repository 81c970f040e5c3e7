"""For services only: delivery, jobs, storage, telemetry and the wiring of a service."""
