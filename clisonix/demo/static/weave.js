// The room Weave: draws what the program sends. All numbers come from there; nothing is computed here but positions.
"use strict";

(() => {
  const room = document.getElementById("room");
  const byId = (id) => document.getElementById(id);
  const LANE = 84, BOX = 12, KEEP_S = 14;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const lanes = new Map();
  let hello = null, newest = null, nowS = 0, heardAt = 0, paused = false, drawnAt = 0, saidAt = -1e9;
  const windows = [];

  const problem = (text) => { byId("problem").textContent = text; };
  const change = (content) => {
    if (hello) Plot.send("/weave/change/" + hello.session, content).then(() => problem(""), (error) => problem(error.message));
  };

  const query = new URLSearchParams({ source: room.dataset.source, window: room.dataset.window });
  const events = new EventSource("/weave/stream?" + query);
  events.addEventListener("problem", (event) => {
    events.close();
    byId("waiting").textContent = "";
    problem(JSON.parse(event.data).problem);
  });
  events.addEventListener("hello", (event) => begin(JSON.parse(event.data)));
  events.addEventListener("step", (event) => take(JSON.parse(event.data)));
  events.onerror = () => {
    if (events.readyState === EventSource.CLOSED) problem("The program has ended or refused: start clisonix demo again.");
    else problem("The connection was lost; trying again.");
  };

  function begin(content) {
    hello = content;
    problem("");
    byId("waiting").textContent = "";
    byId("notes").textContent = content.notes.join(" ");
    byId("follow").checked = false;
    byId("lanes").replaceChildren();
    byId("newest").tBodies[0].replaceChildren();
    lanes.clear();
    windows.length = 0;
    newest = null;
    for (const stream of content.streams) addLane(stream);
  }

  function addLane(stream) {
    const canvas = Plot.element("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", stream.name + ": no sample yet");
    const pull = Plot.element("button", { type: "button", textContent: "Pull the cable" });
    pull.setAttribute("aria-pressed", "false");
    pull.setAttribute("aria-label", "Pull the cable of " + stream.name);
    pull.addEventListener("click", () => {
      const pulled = pull.getAttribute("aria-pressed") !== "true";
      pull.setAttribute("aria-pressed", String(pulled));
      pull.textContent = pulled ? "Plug it in" : "Pull the cable";
      change({ stream: stream.name, pulled });
    });
    const choice = (words, values, key) => {
      const select = Plot.element("select");
      for (const [value, text] of values) select.append(Plot.element("option", { value, textContent: text }));
      select.setAttribute("aria-label", words + " of " + stream.name);
      select.addEventListener("change", () => change({ stream: stream.name, [key]: Number(select.value) }));
      return Plot.element("label", {}, words + " ", select);
    };
    const drift = choice("Drift", [[0, "none"], [200, "+200 ppm"], [1000, "+1000 ppm"], [5000, "+5000 ppm"], [-5000, "−5000 ppm"]], "drift_ppm");
    const loss = choice("Lost packets", [[0, "none"], [0.1, "10 %"], [0.4, "40 %"]], "loss");
    const more = stream.channels - stream.shown.length;
    const facts = Plot.number(stream.rate_hz, 5) + " Hz · " + stream.shown.join(", ") + (more > 0 ? " and " + more + " more" : "") +
      (stream.unit ? " · " + stream.unit : "");
    const section = Plot.element("section", { className: "lane" },
      Plot.element("div", { className: "row" },
        Plot.element("h2", { textContent: stream.name }), Plot.element("span", { className: "quiet", textContent: facts }),
        pull, drift, loss),
      canvas);
    section.setAttribute("aria-label", "Stream " + stream.name);
    byId("lanes").append(section);
    const row = Plot.element("tr", {}, Plot.element("th", { scope: "row", textContent: stream.name }));
    const cells = {};
    for (const name of ["samples", "measured", "heard", "found", "off", "received", "lost", "late"]) {
      cells[name] = Plot.element("data", { className: name, value: "", textContent: "–" });
      row.append(Plot.element("td", {}, cells[name]));
    }
    byId("newest").tBodies[0].append(row);
    lanes.set(stream.name, { stream, canvas, cells, t: [], y: stream.shown.map(() => []), state: null });
  }

  function take(step) {
    nowS = step.now_s;
    heardAt = performance.now();
    for (const [name, parts] of Object.entries(step.drawn)) {
      const lane = lanes.get(name);
      for (const part of parts) {
        lane.t.push(...part.t);
        part.y.forEach((values, channel) => lane.y[channel].push(...values));
      }
      let old = 0;
      while (old < lane.t.length && lane.t[old] < nowS - KEEP_S) old += 1;
      if (old > 200) {
        lane.t.splice(0, old);
        lane.y.forEach((values) => values.splice(0, old));
      }
    }
    for (const window of step.windows) {
      windows.push(window);
      newest = window;
    }
    while (windows.length > 40) windows.shift();
    for (const [name, state] of Object.entries(step.state)) {
      const lane = lanes.get(name);
      lane.state = state;
      tell(lane);
    }
    if (newest) {
      byId("newest-name").textContent = "number " + newest.number + ", from " + Plot.number(newest.start_s, 4) + " s, ready " +
        Plot.number(newest.waited_s, 2) + " s after its end";
      byId("newest").dataset.window = newest.number;
    }
    say();
  }

  function put(cell, value, text) {
    cell.value = value === null ? "" : value;
    if (cell.textContent !== text) cell.textContent = text;
  }

  function tell(lane) {
    const { cells, state } = lane, part = newest && newest.streams[lane.stream.name];
    put(cells.samples, part ? part.samples : null, part ? String(part.samples) : "–");
    put(cells.measured, part ? part.measured : null, part ? Plot.number(100 * part.measured) + " %" : "–");
    put(cells.heard, state.heard_hz, state.silent ? "silent" : state.heard_hz === null ? "–" : Plot.number(state.heard_hz, 4) + " Hz");
    put(cells.found, state.found_ppm, state.found_ppm === null ? "not known yet" :
      Math.round(state.found_ppm) + " ± " + Math.round(2 * state.found_sd_ppm) + " ppm");
    put(cells.off, state.off_s, Math.round(1e3 * state.off_s) + " ms");
    for (const name of ["received", "lost", "late"]) put(cells[name], state[name], String(state[name]));
  }

  // For those who do not see the picture: a sentence now and then, not ten a second.
  function say() {
    if (!newest || performance.now() - saidAt < 8000) return;
    saidAt = performance.now();
    const masked = [...lanes.keys()].filter((name) => newest.streams[name].measured < 0.999)
      .map((name) => name + " " + Math.round(100 * newest.streams[name].measured) + " % measured");
    byId("said").textContent = "Window " + newest.number + ": " + (masked.length ? masked.join(", ") : "everything measured") + ".";
    byId("windows").setAttribute("aria-label", byId("said").textContent);
    for (const lane of lanes.values()) {
      const silent = lane.state && lane.state.silent;
      lane.canvas.setAttribute("aria-label", lane.stream.name + ": " + (silent ? "silent" : "arriving") + ", last ten seconds drawn");
    }
  }

  function draw(at) {
    requestAnimationFrame(draw);
    if (paused || !hello || document.hidden || at - drawnAt < (calm.matches ? 1000 : 45)) return;
    drawnAt = at;
    const time = nowS + Math.min(0.3, (performance.now() - heardAt) / 1000) - 0.1;
    const span = room.clientWidth < 600 ? 6 : 10;
    const colours = Plot.colours();
    for (const lane of lanes.values()) drawLane(lane, time, span, colours);
    drawWindows(time, span, colours);
  }

  function drawLane(lane, time, span, colours) {
    const { context, width, height } = Plot.context(lane.canvas, LANE);
    const x = (t) => width * (1 - (time - t) / span);
    const step = Math.max(2.5 / lane.stream.rate_hz, 0.16);
    context.strokeStyle = colours.line;
    context.beginPath();
    for (let t = Math.ceil(time - span); t <= time; t += 1) {
      context.moveTo(x(t), 0);
      context.lineTo(x(t), height);
    }
    context.stroke();
    const { t, y } = lane;
    let last = time - span;
    for (let i = 0; i <= t.length; i += 1) {
      const next = i < t.length ? t[i] : time - 0.25;
      if (next < time - span) continue;
      if (next - last > step && (i === t.length || i > 0 || nowS > 1)) {
        Plot.hatch(context, x(Math.max(last, 0)), 2, x(next) - x(Math.max(last, 0)), height - 4, colours.soft);
      }
      last = Math.max(last, next);
    }
    const part = height / lane.y.length;
    lane.y.forEach((values, channel) => {
      const [low, high] = lane.stream.range[channel];
      const top = part * channel + 3, size = part - 6;
      context.strokeStyle = colours.series[channel % 3];
      context.lineWidth = 1.4;
      context.beginPath();
      let pen = false, before = -1e9;
      for (let i = 0; i < t.length; i += 1) {
        if (t[i] < time - span - 0.2) continue;
        const v = values[i];
        if (v === null) { pen = false; continue; }
        const px = x(t[i]), py = top + size * (1 - Math.min(1, Math.max(0, (v - low) / (high - low))));
        if (pen && t[i] - before <= step) context.lineTo(px, py);
        else context.moveTo(px, py);
        pen = true;
        before = t[i];
      }
      context.stroke();
      if (lane.y.length > 1) {
        const label = lane.stream.shown[channel].slice(0, 14);
        context.fillStyle = colours.ground;
        context.fillRect(0, top - 1, context.measureText(label).width + 8, 15);
        context.fillStyle = colours.soft;
        context.fillText(label, 4, top + 11);
      }
    });
    if (lane.state && lane.state.silent) {
      context.fillStyle = colours.ground;
      context.fillRect(width - 66, 6, 60, 18);
      context.fillStyle = colours.alarm;
      context.fillText("silent", width - 56, 19);
    }
  }

  function drawWindows(time, span, colours) {
    const names = [...lanes.keys()];
    const tall = names.length * BOX + 22;
    const { context, width } = Plot.context(byId("windows"), 2 * tall + 4);
    const x = (t) => width * (1 - (time - t) / span);
    for (const window of windows) {
      const left = x(window.start_s), right = x(window.start_s + hello.window_s);
      if (right < 0) continue;
      const top = (window.number % 2) * (tall + 2);
      context.strokeStyle = colours.ink;
      context.lineWidth = 1;
      context.strokeRect(left + 1, top + 16, right - left - 2, names.length * BOX + 2);
      context.fillStyle = colours.ink;
      context.fillText("#" + window.number, left + 3, top + 12);
      if (right - left > 150) {
        context.fillStyle = colours.soft;
        context.fillText("ready after " + Plot.number(window.waited_s, 2) + " s", left + 40, top + 12);
      }
      names.forEach((name, index) => {
        const parts = window.streams[name].parts, wide = (right - left - 4) / parts.length, y = top + 18 + index * BOX;
        parts.forEach((share, k) => {
          const px = left + 2 + k * wide;
          if (share > 0) {
            context.fillStyle = colours.series[index % 3];
            context.globalAlpha = 0.35 + 0.55 * share;
            context.fillRect(px, y + (BOX - 3) * (1 - share), wide + 0.5, (BOX - 3) * share);
            context.globalAlpha = 1;
          }
          if (share < 0.999) Plot.hatch(context, px, y, wide, (BOX - 3) * (1 - share), colours.soft);
        });
      });
    }
  }

  byId("pause").addEventListener("click", (event) => {
    paused = !paused;
    event.currentTarget.setAttribute("aria-pressed", String(paused));
    event.currentTarget.textContent = paused ? "Go on with the picture" : "Pause the picture";
  });
  byId("follow").addEventListener("change", (event) => change({ follow: event.currentTarget.checked }));
  addEventListener("pagehide", () => events.close());
  requestAnimationFrame(draw);
})();
