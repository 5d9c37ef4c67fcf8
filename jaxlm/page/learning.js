"use strict";
// How a run learned: curves of its losses, and what it wrote after each epoch.

const WIDEST = 720, HEIGHT = 260, LEFT = 46, RIGHT = 84, TOP = 12, BOTTOM = 34;

class Learning {
  constructor(values) {
    this.metrics = values.metrics;
    this.samples = values.samples;
    this.notation = values.notation;
    this.best = values.epoch;
    this.begun = values.command && !values.epoch ? "No epoch of this run was complete when this page was made, so that there are" : "";
    this.slider = document.getElementById("epoch");
    const epochs = new Set([...this.metrics, ...this.samples].map(({ epoch }) => epoch));
    this.epochs = [...epochs].sort((one, other) => one - other);
    this.drawCurves(document.getElementById("curves"));
    this.slider.closest("div").hidden = this.epochs.length < 2;
    this.slider.min = 0;
    this.slider.max = Math.max(0, this.epochs.length - 1);
    this.slider.value = Math.max(0, this.epochs.indexOf(this.best));
    this.slider.addEventListener("input", () => this.show());
    this.show();
  }

  drawCurves(place) {
    const known = this.metrics.filter(({ loss }) => Number.isFinite(loss));
    if (!known.length) {
      place.append(missing(this.begun ? `${this.begun} no curves.` : "This run kept no losses, so that there are no curves."));
      return;
    }
    const held = this.metrics.filter((line) => Number.isFinite(line.validation_loss));
    const losses = [...known.map(({ loss }) => loss), ...held.map((line) => line.validation_loss)];
    const low = Math.min(...losses);
    const high = Math.max(Math.max(...losses), low + 1e-3);
    // As wide as the page when it is opened, so that a phone's letters are as large as any.
    const width = Math.min(WIDEST, document.documentElement.clientWidth - 32);
    const [first, last] = [known[0].epoch, Math.max(known.at(-1).epoch, known[0].epoch + 1)];
    this.x = (epoch) => LEFT + ((epoch - first) / (last - first)) * (width - LEFT - RIGHT);
    const y = (loss) => TOP + ((high - loss) / (high - low)) * (HEIGHT - TOP - BOTTOM);
    const drawing = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img" });
    drawing.setAttribute("aria-label", "Loss by epoch, in nats a token");
    for (const loss of marks(low, high)) {
      drawing.append(svg("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: y(loss), y2: y(loss) }));
      drawing.append(svg("text", { x: LEFT - 6, y: y(loss) + 4, "text-anchor": "end" }, String(loss)));
    }
    const step = Math.ceil(((last - first + 1) * 50) / width);
    for (let epoch = first; epoch <= last; epoch += step) {
      drawing.append(svg("text", { x: this.x(epoch), y: HEIGHT - BOTTOM + 17, "text-anchor": "middle" }, String(epoch)));
    }
    drawing.append(svg("text", { x: width - RIGHT, y: HEIGHT - 2, "text-anchor": "end" }, "epoch; loss in nats a token"));
    const ends = [];
    for (const [kind, name, lines, key] of [["train", "training", known, "loss"], ["held", "held out", held, "validation_loss"]]) {
      if (!lines.length) continue;
      const points = lines.map((line) => `${this.x(line.epoch).toFixed(1)},${y(line[key]).toFixed(1)}`);
      drawing.append(svg("path", { class: kind, d: `M${points.join("L")}` }));
      const end = y(lines.at(-1)[key]);
      const near = ends.find((other) => Math.abs(other - end) < 14);
      const label = near === undefined ? end : near + (end >= near ? 14 : -14);
      ends.push(label);
      drawing.append(svg("text", { class: kind, x: width - RIGHT + 8, y: label + 4 }, name));
      const best = lines.find(({ epoch }) => epoch === this.best);
      if (best && (kind === "held" || !held.length)) {
        drawing.append(svg("circle", { cx: this.x(best.epoch), cy: y(best[key]), r: 4 }));
      }
    }
    this.cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM });
    drawing.append(this.cursor);
    place.append(drawing);
    if (!held.length) place.append(missing("Nothing was held out from training, so that there is one curve."));
  }

  show() {
    const epoch = this.epochs[this.slider.value];
    document.querySelector("output[for=epoch]").value = epoch ?? "";
    const line = this.metrics.find((one) => one.epoch === epoch);
    const part = (name, loss) => (Number.isFinite(loss) ? `${name} ${loss.toFixed(4)}` : "");
    const parts = line ? [part("training loss", line.loss), part("held-out loss", line.validation_loss)] : [];
    if (epoch === this.best) parts.push("the best epoch, whose weights this page has");
    document.getElementById("losses").textContent = parts.filter(Boolean).join(" \u00b7 ");
    if (this.cursor && epoch !== undefined) {
      this.cursor.setAttribute("x1", this.x(epoch));
      this.cursor.setAttribute("x2", this.x(epoch));
    }
    player.stop();
    const shown = this.samples.filter((sample) => sample.epoch === epoch);
    const place = document.getElementById("samples");
    if (shown.length) place.replaceChildren(...shown.map((sample) => this.sample(sample)));
    else if (this.begun) place.replaceChildren(missing(`${this.begun} no samples.`));
    else {
      const what = this.samples.length ? `no samples of epoch ${epoch}` : "no samples, so that what it wrote after each epoch is not here";
      place.replaceChildren(missing(`This run kept ${what}.`));
    }
  }

  sample({ temperature, seed, prompt = "", text, surprise, copied, copied_from: from }) {
    const card = document.createElement("article");
    const title = document.createElement("h2");
    title.textContent = `Temperature ${temperature}`;
    const body = document.createElement("div");
    body.className = "text";
    body.dir = "auto";
    const characters = [...text];
    const given = [...prompt].length;
    const span = Number.isInteger(from) && copied > 0 ? [from, from + copied] : [0, 0];
    // Each change of how the text is shown begins a new part.
    const borders = [...new Set([0, given, ...span, characters.length])].sort((one, other) => one - other);
    for (const [i, end] of borders.slice(1).entries()) {
      const start = borders[i];
      const part = document.createElement(start >= span[0] && end <= span[1] ? "mark" : "span");
      const shown = characters.slice(start, end).join("");
      if (end <= given) part.className = "given";
      part.hidden = end <= given && /^\n*$/.test(shown);
      part.textContent = visible(shown);
      body.append(part);
    }
    const note = document.createElement("p");
    note.className = "small";
    const parts = [];
    if (Number.isFinite(surprise)) parts.push(`mean surprise ${surprise.toFixed(2)} nats`);
    if (Number.isInteger(copied)) parts.push(`longest copied span, underlined: ${copied} characters`);
    parts.push(`seed ${seed}`);
    note.textContent = parts.join(" \u00b7 ");
    const picture = PICTURES[this.notation]?.();
    card.append(title, body, note);
    if (picture) {
      picture.show(text);
      title.after(picture.element);
      body.classList.add("notation");
      body.tabIndex = 0; // It scrolls.
    }
    return card;
  }
}

/** Round numbers between two, about four. */
function marks(low, high) {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((one) => one * power >= rough);
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push((i * step).toFixed(digits));
  return found;
}
