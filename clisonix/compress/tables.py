"""Plans as people read them: a table of one, and what differs between two."""

from __future__ import annotations

from clisonix.compress.forms import KEEP
from clisonix.compress.plans import LayerPlan, Plan


def table(plan: Plan) -> str:
    """A line for each weight, then the file, the budget and the notes."""
    rows = [("weight", "kind", "form", "bytes", "error", "reason")]
    for layer in plan.layers:
        size = f"{layer.bytes_before:,}"
        if layer.form != KEEP:
            size += f" → {layer.bytes_after:,}"
        rows.append((layer.name, layer.kind, str(layer.form), size, _error(layer), layer.reason or ""))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = []
    for row in rows:
        left = "  ".join(f"{row[column]:{widths[column]}}" for column in range(3))
        lines.append(f"{left}  {row[3]:>{widths[3]}}  {row[4]:>{widths[4]}}  {row[5]}".rstrip())
    lines.append(f"file: {plan.dense_file_bytes:,} → {plan.file_bytes:,} bytes")
    if plan.cost_after is not None and plan.cost_before is not None and plan.unit != "bytes":
        lines.append(f"{plan.objective}: {plan.cost_before:.4g} → {plan.cost_after:.4g} {plan.unit}")
    lines.append(f"budget: {plan.budget:,.10g} {plan.unit}")
    return "\n".join([*lines, *(f"note: {note}" for note in plan.notes)])


def difference(one: Plan, other: Plan) -> str:
    """What `other` does differently from `one`; empty where nothing differs."""
    before, after = ({layer.name: layer for layer in plan.layers} for plan in (one, other))
    lines = []
    for name in dict.fromkeys([*before, *after]):
        if name not in after:
            lines.append(f"- {name}: {before[name].form}")
        elif name not in before:
            lines.append(f"+ {name}: {after[name].form}")
        elif before[name].form != after[name].form:
            lines.append(f"  {name}: {_change(before[name], after[name])}")
    for what in ("objective", "unit", "budget", "calibrated", "cost_before", "cost_after"):
        mine, theirs = getattr(one, what), getattr(other, what)
        if mine != theirs:
            lines.append(f"  {what}: {mine} → {theirs}")
    if one.file_bytes != other.file_bytes:
        lines.append(f"  file: {one.file_bytes:,} → {other.file_bytes:,} bytes")
    return "\n".join(lines)


def _change(before: LayerPlan, after: LayerPlan) -> str:
    forms = f"{before.form} → {after.form}"
    return f"{forms}, {before.bytes_after:,} → {after.bytes_after:,} bytes, error {_error(before)} → {_error(after)}"


def _error(layer: LayerPlan) -> str:
    return "unknown" if layer.error is None else f"{layer.error:.2g}"
