// The room Account, "what if": asks what a run would cost elsewhere. All numbers come from the program.
"use strict";

(() => {
  const byId = (id) => document.getElementById(id);
  let asked = 0, timer = 0;

  const count = () => (Number(byId("what-count").value) < 0 ? 0 : 10 ** Number(byId("what-count").value));
  const between = (of, unit) => (of.low === null || of.high === null || of.low === undefined ? "range unknown" :
    Plot.quantity(of.low, unit) + " to " + Plot.quantity(of.high, unit));

  function tell() {
    const pue = Number(byId("what-pue").value), words = count() ? count().toLocaleString("en") : "none";
    byId("what-pue-text").textContent = Plot.number(pue);
    byId("what-count-text").textContent = words;
    byId("what-count").setAttribute("aria-valuetext", words);
    clearTimeout(timer);
    timer = setTimeout(ask, 60);
  }

  async function ask() {
    const mine = ++asked;
    const query = new URLSearchParams({ run: byId("what-run").value, place: byId("what-place").value.trim(),
      pue: byId("what-pue").value, inferences: count() });
    try {
      const answer = await fetch("/what-if/figures?" + query);
      const found = await answer.json().catch(() => ({ problem: "the program refused: load this page again" }));
      if (mine !== asked) return;
      draw(found, answer.ok);
    } catch (error) {
      byId("what-problem").textContent = "The program has ended: start clisonix demo again.";
    }
  }

  function draw(found, good) {
    const figures = byId("what-figures"), carbon = found.carbon;
    byId("what-problem").textContent = found.problem || "";
    figures.replaceChildren();
    byId("what-source").textContent = "";
    document.body.dataset.told = JSON.stringify([found.inferences, found.pue]);
    if (!good) return;
    const add = (name, key, value, unit, small) => figures.append(Plot.element("div", {},
      Plot.element("dt", { textContent: name }),
      Plot.element("dd", {}, Plot.element("data", { className: key, value: value === null ? "" : value, textContent: Plot.quantity(value, unit) }),
        Plot.element("small", { textContent: small }))));
    const energy = (of) => (of.joules === null ? of.how : between(of, "J") + "; " + of.how);
    add("training", "what-training", found.training.joules, "J", energy(found.training));
    if (found.inferences) add(found.inferences.toLocaleString("en") + " inferences", "what-use", found.use.joules, "J", energy(found.use));
    if (!carbon) return;
    add("CO₂-equivalent, electricity", "what-grams", carbon.grams, "g", carbon.grams === null ? carbon.reason : between(carbon, "g"));
    if (carbon.lines.length && carbon.grams !== null) {
      add("with the building", "what-all-in", found.all_in.grams, "g", between(found.all_in, "g") + "; PUE " + Plot.number(found.pue) + ", " + carbon.lines[0].source);
    }
    if (carbon.factor_g_per_kwh !== null) {
      byId("what-source").textContent = carbon.place + ": " + Plot.number(carbon.factor_g_per_kwh) + " g/kWh" +
        (carbon.factor_low === null ? "" : " (" + Plot.number(carbon.factor_low) + " to " + Plot.number(carbon.factor_high) + ")") +
        ", yearly average of " + carbon.year + "; " + carbon.range_how + ". " + carbon.source + ".";
    }
  }

  if (!byId("what-run")) return;
  for (const id of ["what-run", "what-place", "what-pue", "what-count"]) byId(id).addEventListener("input", tell);
  byId("what-if").addEventListener("submit", (event) => { event.preventDefault(); tell(); });
  tell();
})();
