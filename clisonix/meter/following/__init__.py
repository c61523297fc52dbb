"""A running meter's figures, as others want to see them: Prometheus, logs, progress bars."""
