// The room Shrink: asks for points of the frontier and draws them. All numbers come from the program.
"use strict";

(() => {
  const byId = (id) => document.getElementById(id);
  const { objectives, first, rate, seconds } = JSON.parse(byId("setting").dataset.setting);
  const slider = byId("budget");
  let points = [], shown = null, doingNow = null, asked = 0, timer = 0, slow = 0;

  const tracker = () => byId("tracker").value;
  const objective = () => byId("objective").value;
  const share = () => objectives[objective()][Number(slider.value)];
  const unit = () => ({ bytes: "B", seconds: "s", joules: "J" })[objective()];
  const percent = (value) => (value === null || value === undefined ? "unknown" : Plot.number(100 * value) + " %");
  const problem = (text) => { byId("problem").textContent = text; };

  function choose() {
    const shares = objectives[objective()];
    slider.max = shares.length - 1;
    slider.value = shares.indexOf(first[objective()]);
    const option = byId("tracker").selectedOptions[0];
    byId("model-kind").textContent = option.textContent + ":";
    byId("about").textContent = option.dataset.about;
    byId("axis").textContent = { bytes: "bytes of the file", seconds: "planned seconds", joules: "planned joules" }[objective()];
    points = [];
    shown = null;
    move();
    want();
  }

  function want() {
    Plot.send("/shrink/want", { tracker: tracker(), objective: objective(), share: share() }).then(watch, (error) => problem(error.message));
  }

  // The slider moved: a point that is known is drawn at once, another is made next.
  function move() {
    const text = Plot.number(100 * share()) + " % of the dense model's " + objective();
    byId("budget-text").textContent = text;
    slider.setAttribute("aria-valuetext", text);
    show();
  }

  async function ask(address, query) {
    const answer = await fetch(address + "?" + new URLSearchParams(query));
    if (!answer.ok) throw new Error("the program refused (" + answer.status + "): load this page again");
    return { status: answer.status, content: await answer.json() };
  }

  async function show() {
    const mine = ++asked, begun = performance.now();
    try {
      const { status, content } = await ask("/shrink/point",
        { tracker: tracker(), objective: objective(), share: share(), clip: byId("clip").value });
      if (mine !== asked) return;
      document.body.dataset.ready = String(status === 200);
      const making = doingNow && doingNow.share === share() && doingNow.tracker === tracker() && doingNow.objective === objective();
      if (status === 200) {
        shown = content;
        drawPoint();
        document.body.dataset.answered = String(performance.now() - begun);
        problem(content.summary.problem || "");
      } else {
        // What there is of it already: the dense model's output, and the plan.
        shown = content;
        drawPoint();
        if (!making) {
          clearTimeout(slow);
          slow = setTimeout(want, 300);
        }
      }
    } catch (error) {
      problem(error.message);
    }
  }

  async function watch() {
    clearTimeout(timer);
    try {
      const { content } = await ask("/shrink/state", { tracker: tracker(), objective: objective() });
      const grown = content.points.length !== points.length;
      points = content.points;
      doingNow = content.doing;
      tellDoing(content);
      drawFrontier();
      if (document.body.dataset.ready !== "true" && (grown || content.doing)) show();
      if (content.doing || content.left) timer = setTimeout(watch, 500);
    } catch (error) {
      byId("doing").textContent = "The program has ended: start clisonix demo again.";
      timer = setTimeout(watch, 3000);
    }
  }

  const WORDS = { prepare: "reading speech and model", teach: "teaching the small model", calibrate: "hearing what goes into each layer",
    options: "weighing the forms of each layer", compress: "compressing layer by layer", try: "listening", time: "timing both" };

  let doingSaid = "";
  function tellDoing({ doing, left }) {
    const bar = byId("progress");
    bar.hidden = !doing;
    if (!doing) {
      byId("doing").textContent = left ? "Beginning …" : points.length ? "All budgets are measured." : "";
      return;
    }
    bar.max = Math.max(1, doing.total);
    if (doing.total > 1) bar.value = doing.done;
    else bar.removeAttribute("value");
    const what = "At " + Plot.number(100 * doing.share) + " %: " + (WORDS[doing.what] || doing.what) +
      (left ? "; " + left + " more budgets after this" : "") + ".";
    if (what !== doingSaid) byId("doing").textContent = doingSaid = what;
  }

  function drawPoint() {
    const figures = byId("figures"), summary = shown && shown.summary;
    figures.replaceChildren();
    const add = (name, key, value, text, small) => figures.append(Plot.element("div", {},
      Plot.element("dt", { textContent: name }),
      Plot.element("dd", {}, Plot.element("data", { className: key, value: value === null || value === undefined ? "" : value, textContent: text }),
        Plot.element("small", { textContent: small }))));
    const body = byId("plan").tBodies[0];
    body.replaceChildren();
    byId("notes").textContent = "";
    if (summary && !summary.problem) {
      add("file", "bytes", summary.bytes, Plot.quantity(summary.bytes, "B"),
        "of " + Plot.quantity(summary.dense_bytes, "B") + " dense: " + percent(summary.bytes / summary.dense_bytes) + ", exact");
      add("pitch kept", "close", summary.close, percent(summary.close),
        "of " + summary.voiced + " voiced frames within 50 cents of the dense model");
      add("time of a clip", "seconds", summary.seconds, Plot.quantity(summary.seconds, "s"), Plot.quantity(summary.dense_seconds, "s") + " dense, measured here");
      add("energy of a clip", "joules", summary.joules, Plot.quantity(summary.joules, "J"), Plot.quantity(summary.dense_joules, "J") + " dense; " + summary.how);
      if (summary.unit !== "bytes") {
        add("planned cost", "cost", summary.cost, Plot.quantity(summary.cost, unit()), Plot.quantity(summary.dense_cost, unit()) + " dense, for one calibration batch");
      }
    }
    if (shown && shown.plan) {
      for (const layer of shown.plan.layers) body.append(layerRow(layer));
      byId("notes").textContent = shown.plan.notes.join(". ") + "." +
        (summary ? " Compressed in " + Plot.quantity(summary.took_s, "s") + "." : "");
    }
    const clip = shown && shown.clip;
    drawPitch(byId("dense"), clip && clip.dense, "dense", 0, clip);
    drawPitch(byId("compressed"), clip && clip.compressed, "compressed", 1, clip);
    drawFrontier();
  }

  function layerRow(layer) {
    const left = layer.after / layer.before;
    const meter = Plot.element("meter", { min: 0, max: 1, value: Math.min(1, left), title: percent(left) });
    meter.setAttribute("aria-label", layer.name + ": " + percent(left) + " of its bytes left");
    const cell = (content) => Plot.element("td", {}, content);
    return Plot.element("tr", {}, Plot.element("th", { scope: "row", textContent: layer.name }), cell(layer.kind), cell(layer.shape.join(" × ")),
      Plot.element("td", {}, layer.form, Plot.element("small", { textContent: layer.reason || "" })),
      cell(layer.before.toLocaleString("en") + " → " + layer.after.toLocaleString("en")),
      Plot.element("td", { className: "tight" }, meter, " " + percent(left)), cell(layer.error === null ? "unknown" : layer.error > 0 && layer.error < 1e-3 ? layer.error.toExponential(1) : Plot.number(layer.error, 2)));
  }

  // The cost that the slider is about: bytes of the file, or what the plan expects in seconds or joules.
  const cost = (point) => (objective() === "bytes" ? point.bytes : point.cost);

  function drawFrontier() {
    const canvas = byId("frontier"), colours = Plot.colours();
    const { context, width, height } = Plot.context(canvas, 240);
    const good = points.filter((point) => !point.problem && point.close !== null);
    const table = byId("points").tBodies[0];
    table.replaceChildren(...points.map((point) => Plot.element("tr", {},
      Plot.element("th", { scope: "row", textContent: Plot.number(100 * point.share) + " %" }),
      ...(point.problem ? [Plot.element("td", { colSpan: 4, textContent: point.problem })] :
        [Plot.quantity(point.bytes, "B"), percent(point.close), Plot.quantity(point.seconds, "s"), Plot.quantity(point.joules, "J")]
          .map((text) => Plot.element("td", { textContent: text }))))));
    if (!good.length) {
      context.fillStyle = colours.soft;
      context.fillText("The first point comes soon.", 8, 20);
      return;
    }
    const dense = objective() === "bytes" ? good[0].dense_bytes : Math.max(...good.map((point) => point.dense_cost));
    const most = Math.max(dense, ...good.map(cost)) * 1.05, lowest = Math.min(0.9, ...good.map((point) => point.close)) - 0.02;
    const left = 48, bottom = height - 22;
    const x = (value) => left + (width - left - 16) * value / most;
    const y = (value) => 14 + (bottom - 14) * (1 - (value - lowest) / (1.005 - lowest));
    context.strokeStyle = colours.line;
    context.fillStyle = colours.soft;
    context.lineWidth = 1;
    context.textAlign = "right";
    for (let k = 0; k <= 4; k += 1) {
      const value = lowest + (1 - lowest) * k / 4;
      context.beginPath();
      context.moveTo(left, y(value));
      context.lineTo(width - 16, y(value));
      context.stroke();
      context.fillText(Plot.number(100 * value) + " %", left - 6, y(value) + 4);
    }
    context.textAlign = "center";
    for (const part of [0, 0.25, 0.5, 0.75, 1]) context.fillText(Plot.quantity(part * dense, unit()), Math.min(width - 30, x(part * dense)), bottom + 16);
    context.textAlign = "left";
    const sorted = [...good].sort((a, b) => cost(a) - cost(b));
    context.strokeStyle = colours.series[0];
    context.lineWidth = 2;
    context.beginPath();
    sorted.forEach((point, index) => context[index ? "lineTo" : "moveTo"](x(cost(point)), y(point.close)));
    context.stroke();
    for (const point of good) {
      const here = point.share === share();
      context.beginPath();
      context.arc(x(cost(point)), y(point.close), here ? 7 : 4, 0, 7);
      context.fillStyle = here ? colours.series[1] : colours.series[0];
      context.fill();
      if (here) {
        context.strokeStyle = colours.ink;
        context.lineWidth = 2;
        context.stroke();
      }
    }
    context.fillStyle = colours.ink;
    context.fillRect(x(dense) - 4, y(1) - 4, 8, 8);
    context.textAlign = "right";
    context.fillText("dense", x(dense) - 8, y(1) + 16);
    context.textAlign = "left";
    canvas.setAttribute("aria-label", "Frontier: " + sorted.map((point) =>
      Plot.quantity(cost(point), unit()) + " keeps " + percent(point.close)).join(", "));
  }

  function drawPitch(canvas, picture, name, series, clip) {
    const colours = Plot.colours();
    const { context, width, height } = Plot.context(canvas, 210);
    if (!picture) {
      context.fillStyle = colours.soft;
      context.fillText("not made yet", 8, 20);
      return;
    }
    const wave = 36, tall = height - wave - 18;
    const pixels = Uint8Array.from(atob(picture.pixels), (c) => c.charCodeAt(0));
    const image = document.createElement("canvas");
    image.width = picture.frames;
    image.height = picture.rows;
    const paint = image.getContext("2d"), data = paint.createImageData(picture.frames, picture.rows);
    const number = parseInt(colours.series[series].slice(1), 16);
    for (let row = 0; row < picture.rows; row += 1) {
      for (let frame = 0; frame < picture.frames; frame += 1) {
        const at = 4 * ((picture.rows - 1 - row) * picture.frames + frame);
        data.data[at] = number >> 16;
        data.data[at + 1] = (number >> 8) & 255;
        data.data[at + 2] = number & 255;
        data.data[at + 3] = pixels[row * picture.frames + frame] * 0.6;
      }
    }
    paint.putImageData(data, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(image, 0, 0, width, tall);
    context.strokeStyle = colours.line;
    context.strokeRect(0.5, 0.5, width - 1, tall - 1);
    // Rows of the picture are 80 cents high, the lowest at about 32 Hz.
    const y = (hz) => tall * (1 - (1200 * Math.log2(hz / 10) - 1997.38) / (20 * 360));
    const x = (frame) => width * (frame + 0.5) / picture.frames;
    context.fillStyle = colours.soft;
    for (const hz of [50, 100, 200, 400, 800]) context.fillText(hz + " Hz", 4, y(hz) + 4);
    context.strokeStyle = colours.ink;
    context.lineWidth = 2;
    context.setLineDash(series ? [5, 2] : []);
    context.beginPath();
    picture.pitch_hz.forEach((hz, frame, all) => {
      // A jump is another pitch, not a way between two.
      const before = frame ? all[frame - 1] : null, joined = before !== null && Math.abs(Math.log2(hz / before)) < 0.25;
      if (hz !== null && !joined) context.moveTo(x(frame - 0.4), y(hz));
      if (hz !== null) context.lineTo(x(frame), y(hz));
    });
    context.stroke();
    context.setLineDash([]);
    context.strokeStyle = colours.soft;
    context.lineWidth = 1;
    context.beginPath();
    clip.outline.forEach(([low, high], frame) => {
      context.moveTo(x(frame), tall + 4 + wave / 2 * (1 - high));
      context.lineTo(x(frame), tall + 5 + wave / 2 * (1 - low));
    });
    context.stroke();
    context.fillStyle = colours.soft;
    context.fillText("sound, " + Plot.number(picture.frames / 100) + " s", 4, height - 3);
    const sure = picture.pitch_hz.filter((hz) => hz !== null).sort((a, b) => a - b);
    canvas.setAttribute("aria-label", "Pitch found by the " + name + " model: " + sure.length + " of " + picture.frames + " frames voiced" +
      (sure.length ? ", median " + Plot.number(sure[sure.length >> 1]) + " Hz" : ""));
  }

  // What the microphone hears goes to the program on this machine, one channel at the models' rate, and nowhere else.
  async function record() {
    const button = byId("record"), say = (text) => { byId("recording").textContent = text; };
    problem("");
    if (!navigator.mediaDevices || !window.MediaRecorder) return problem("This browser gives pages no microphone.");
    button.disabled = true;
    let stream = null;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
      const recorder = new MediaRecorder(stream), parts = [];
      recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
      const ended = new Promise((done) => recorder.addEventListener("stop", done));
      recorder.start();
      say("Speak now …");
      setTimeout(() => recorder.stop(), 1000 * seconds + 100);
      await ended;
      say("Listening …");
      const sound = await resampled(await new Blob(parts).arrayBuffer());
      const answer = await fetch("/shrink/hear", { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: sound });
      const content = answer.headers.get("content-type").startsWith("application/json") ? await answer.json() : {};
      if (!answer.ok) throw new Error(content.problem || "the program refused (" + answer.status + "): load this page again");
      const option = Plot.element("option", { textContent: content.clip });
      byId("clip").append(option);
      byId("clip").value = option.value;
      say("Recorded; it is gone when the program ends.");
      show();
    } catch (error) {
      say("");
      problem({ NotAllowedError: "The microphone was not allowed: allow it beside the address and try again.",
        NotFoundError: "There is no microphone on this machine." }[error.name] || error.message);
    } finally {
      if (stream) for (const track of stream.getTracks()) track.stop();
      button.disabled = false;
    }
  }

  async function resampled(recorded) {
    const decoder = new AudioContext();
    const decoded = await decoder.decodeAudioData(recorded).finally(() => decoder.close());
    const count = Math.min(Math.floor(rate * seconds), Math.floor(rate * decoded.duration));
    const offline = new OfflineAudioContext(1, Math.max(1, count), rate), source = offline.createBufferSource();
    source.buffer = decoded;
    source.connect(offline.destination);
    source.start();
    const mono = (await offline.startRendering()).getChannelData(0), view = new DataView(new ArrayBuffer(2 * mono.length));
    mono.forEach((value, at) => view.setInt16(2 * at, Math.max(-32768, Math.min(32767, Math.round(32768 * value))), true));
    return view.buffer;
  }

  byId("record").addEventListener("click", record);
  byId("tracker").addEventListener("change", choose);
  byId("objective").addEventListener("change", choose);
  byId("clip").addEventListener("change", show);
  slider.addEventListener("input", move);
  addEventListener("resize", drawPoint);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawPoint);
  choose();
})();
