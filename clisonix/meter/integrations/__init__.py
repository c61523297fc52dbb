"""Callbacks for the training loops of other libraries; each module is imported by name, and needs its library."""
