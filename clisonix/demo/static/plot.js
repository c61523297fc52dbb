// What both rooms draw with: sharp canvases, the colours of the page, and numbers as people write them.
"use strict";

const Plot = {
  colours() {
    const style = getComputedStyle(document.documentElement);
    const take = (name) => style.getPropertyValue(name).trim();
    return {
      ink: take("--ink"), soft: take("--soft"), line: take("--line"), ground: take("--ground"), alarm: take("--alarm"),
      series: [take("--one"), take("--two"), take("--three")],
    };
  },

  // A context in which one unit is one CSS pixel, however fine the screen is.
  context(canvas, height) {
    const width = canvas.clientWidth || canvas.parentElement.clientWidth;
    const scale = window.devicePixelRatio || 1;
    const w = Math.max(1, Math.round(width * scale)), h = Math.max(1, Math.round(height * scale));
    if (canvas.width !== w || canvas.height !== h) {
      canvas.width = w;
      canvas.height = h;
      canvas.style.height = height + "px";
    }
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = "12px system-ui, sans-serif";
    return { context, width, height };
  },

  // Hatching says "not there" without colour.
  hatch(context, x, y, width, height, colour) {
    if (width <= 0) return;
    context.save();
    context.beginPath();
    context.rect(x, y, width, height);
    context.clip();
    context.strokeStyle = colour;
    context.lineWidth = 1;
    context.beginPath();
    for (let at = Math.floor((x - height) / 7) * 7; at < x + width; at += 7) {
      context.moveTo(at, y + height);
      context.lineTo(at + height, y);
    }
    context.stroke();
    context.restore();
  },

  number(value, digits = 3) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "unknown";
    return String(Number(value.toPrecision(digits)));
  },

  quantity(value, unit) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "unknown";
    const steps = [[1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"]];
    for (const [factor, prefix] of steps) {
      if (Math.abs(value) >= factor && !(unit === "s" && factor > 1) && !(unit === "B" && factor < 1)) {
        return Plot.number(value / factor) + " " + prefix + unit;
      }
    }
    return Plot.number(value) + " " + unit;
  },

  element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  },

  async send(address, content) {
    const answer = await fetch(address, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content),
    });
    const said = await answer.json().catch(() => ({ problem: "the program did not answer as expected" }));
    if (!answer.ok) throw new Error(said.problem || "this did not work");
    return said;
  },
};
