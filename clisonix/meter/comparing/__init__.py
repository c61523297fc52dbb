"""Runs beside one another: ratios, intervals, equivalence, and the gate for continuous integration."""
