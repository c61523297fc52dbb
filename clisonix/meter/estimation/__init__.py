"""From a counter's samples to joules with an interval."""
