"use strict";
// The page: its settings, what is written, and what could stand at each place.

const FRAME = 25; // Milliseconds of writing between two frames.
const GLANCE = 100; // Milliseconds for which the likeliest tokens stay as they are while the page writes.
const SLOW = 40; // Milliseconds a token, to read along.
const SHOWN = 10; // The most probable tokens.
const KEPT = 2 ** 23; // The most numbers in the predictions that are kept.

const byId = (id) => document.getElementById(id);

/** A probability in a few characters. */
function percent(share) {
  if (share < 0.0001) return share ? "<0.01\u2009%" : "0";
  return `${(100 * share).toFixed(share < 0.1 ? 2 : 1)}\u2009%`;
}

/** What is written, token by token, and the answers to the page's settings. */
class Desk {
  constructor(generator) {
    this.generator = generator;
    const onPoint = (place, isHeld) => this.point(place, isHeld);
    const picture = PICTURES[generator.values.notation]?.();
    this.view = picture ? new NotationView(byId("text"), onPoint, picture) : new TextView(byId("text"), onPoint);
    this.pieces = []; // Each with ids, text, surprise, and what was predicted in its place.
    this.prompt = [];
    this.held = null; // The place that is looked at; null for the end.
    this.pointed = null;
    this.turn = 0; // Each writing has a number, so that a new one ends the one before.
    byId("settings").addEventListener("submit", (event) => {
      event.preventDefault();
      this.start();
    });
    byId("settings").addEventListener("input", () => this.showSettings());
    byId("stop").addEventListener("click", () => this.stop());
    byId("more").addEventListener("click", () => this.goOn());
    byId("another").addEventListener("click", () => {
      byId("seed").value = (this.seed() + 1) >>> 0;
      this.start();
    });
    byId("text").addEventListener("keydown", (event) => this.move(event));
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.look(null));
    byId("prompt").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.start();
    });
    for (const id of ["start", "another"]) byId(id).disabled = false;
    this.showSettings();
  }

  /** The settings of a draw; a filter that would leave out nothing is off. */
  draw() {
    const [temperature, topK, topP, minP] = ["temperature", "top-k", "top-p", "min-p"].map((id) => Number(byId(id).value));
    return {
      temperature,
      topK: topK < this.generator.vocab.tokens.length ? topK : null,
      topP: topP < 1 ? topP : null,
      minP: minP > 0 ? minP : null,
    };
  }

  seed() {
    return Math.min(2 ** 32 - 1, Math.max(0, Math.floor(Number(byId("seed").value) || 0)));
  }

  /** The prompt; where a run's own is only a line end, after which something new begins, it need not be typed. */
  givenPrompt() {
    const { seedText } = this.generator.values;
    return byId("prompt").value || (seedText.trim() ? "" : seedText);
  }

  /** Writes what follows the prompt. */
  async start() {
    if (await this.readPrompt()) await this.write();
  }

  /** Reads the prompt; where it cannot be read, says why. As `begin`. */
  async readPrompt() {
    byId("error").textContent = "";
    try {
      return await this.begin(this.generator.encode(this.givenPrompt()), []);
    } catch (error) {
      if (!(error instanceof InputError)) throw error;
      byId("error").textContent = error.message;
      return false;
    }
  }

  /**
   * Shows a prompt's ids and pieces after it; what is drawn next is the first token after them.
   *
   * @returns {Promise<boolean>} whether nothing else has begun meanwhile.
   */
  async begin(ids, pieces) {
    const turn = ++this.turn;
    byId("status").textContent = "Reading\u2026";
    byId("stop").disabled = false;
    byId("more").disabled = true;
    this.prompt = ids;
    this.pieces = pieces;
    this.growing = null;
    this.pending = { ids: [], surprise: 0 }; // Tokens that do not complete a character yet.
    this.written = 0; // Characters since the beginning.
    this.wanted = 0;
    this.view.begin(this.decoded(ids));
    pieces.forEach((piece) => this.view.append(piece));
    this.look(null);
    const all = [...ids, ...pieces.flatMap((piece) => piece.ids)];
    const growing = await this.generator.text(all, this.seed(), byId("mode").value);
    if (turn !== this.turn) return false;
    this.growing = growing;
    byId("status").textContent = "";
    this.finish();
    return true;
  }

  decoded(ids) {
    const decode = this.generator.vocab.decoder();
    return ids.map(decode).join("");
  }

  /** Writes as many more characters as the settings say. */
  async write() {
    const turn = ++this.turn;
    this.wanted = Math.min(this.wanted, this.written) + Number(byId("length").value);
    if (this.pieces.length) this.view.cut(this.pieces.at(-1).text); // Of which the last characters were left out.
    byId("stop").disabled = false;
    byId("more").disabled = true;
    this.showCommand();
    const began = performance.now();
    let glanced = began;
    let count = 0;
    while (turn === this.turn && this.written < this.wanted) {
      const isSlow = byId("pace").value === "slow";
      const until = performance.now() + (isSlow ? 0 : FRAME);
      do {
        this.next();
        count++;
      } while (this.written < this.wanted && performance.now() < until);
      const rate = (1000 * count) / (performance.now() - began);
      byId("status").textContent = isSlow ? "" : `${Math.round(rate).toLocaleString("en")} tokens a second`;
      if (this.held === null && (isSlow || performance.now() > glanced + GLANCE)) {
        this.showLikely();
        glanced = performance.now();
      }
      await (isSlow ? new Promise((resolve) => setTimeout(resolve, SLOW)) : pause());
    }
    if (turn !== this.turn) return;
    const over = this.written - this.wanted;
    if (over > 0) this.view.cut([...this.pieces.at(-1).text].slice(0, -over).join(""));
    this.finish();
  }

  next() {
    const draw = this.draw();
    const { id, text, prediction } = this.growing.next(draw);
    const { pending } = this;
    pending.prediction ??= prediction;
    pending.ids.push(id);
    pending.surprise -= Math.log(softmax(prediction.logits)[id]);
    if (text) this.append({ ...pending, text });
  }

  append(piece) {
    this.pieces.push(piece);
    this.view.append(piece);
    this.written += [...piece.text].length;
    this.pending = { ids: [], surprise: 0 };
    const oldest = this.pieces.length - 1 - Math.floor(KEPT / piece.prediction.logits.length);
    if (oldest >= 0) this.pieces[oldest].prediction = null;
  }

  stop() {
    this.turn++;
    this.finish();
  }

  finish() {
    byId("stop").disabled = true;
    byId("more").disabled = !this.growing;
    this.showLikely();
  }

  /** Writes on: from the place that is held, or from the end. */
  async goOn() {
    const { held } = this;
    if (held === null) await this.write();
    else await this.branch(held, this.pieces[held]);
  }

  /** Writes on from a place with another piece there: all up to it becomes the prompt. */
  async branch(place, piece) {
    const pieces = [...this.pieces.slice(0, place), piece];
    byId("prompt").value = this.decoded([...this.prompt, ...pieces.flatMap(({ ids }) => ids)]);
    byId("error").textContent = "";
    if (await this.begin(this.prompt, pieces)) await this.write();
  }

  /** What was predicted at the place that is looked at, and the piece there; at the end, none. */
  looked() {
    const place = this.held ?? this.pointed;
    if (place !== null && place < this.pieces.length) return { place, piece: this.pieces[place], prediction: this.pieces[place].prediction };
    return { place: this.pieces.length, piece: null, prediction: this.growing?.prediction };
  }

  point(place, isHeld) {
    if (isHeld) this.look(this.held === place ? null : place);
    else if (this.held === null && byId("stop").disabled) {
      this.pointed = place;
      this.showLikely();
    }
  }

  /** Holds a place; null returns to the end. */
  look(place) {
    this.held = place;
    this.pointed = null;
    this.view.mark(place);
    this.showLikely();
  }

  move(event) {
    const last = this.pieces.length - 1;
    const here = this.held ?? last + 1;
    const places = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: last + 1 };
    if (!(event.key in places) || last < 0) return;
    event.preventDefault();
    const place = Math.max(0, places[event.key]);
    this.look(place > last ? null : place);
  }

  showSettings() {
    const draw = this.draw();
    const shown = {
      temperature: draw.temperature.toFixed(2),
      "top-k": draw.topK ?? "off",
      "top-p": draw.topP?.toFixed(2) ?? "off",
      "min-p": draw.minP?.toFixed(2) ?? "off",
      length: byId("length").value,
    };
    for (const [id, text] of Object.entries(shown)) {
      document.querySelector(`output[for=${id}]`).value = text;
      byId(id).setAttribute("aria-valuetext", text);
    }
    this.showLikely();
    this.showCommand();
  }

  /** The tokens that could stand at the place that is looked at, the likeliest first. */
  showLikely() {
    const { place, piece, prediction } = this.looked();
    const before = this.pieces.slice(Math.max(0, place - 24), place).map(({ text }) => text).join("");
    const shown = [...(this.decoded(this.prompt.slice(-24)) + before)].slice(-24).join("");
    const quote = document.createElement("bdi"); // Of its own direction.
    quote.textContent = named(shown).replaceAll("\u2423", " ");
    byId("place").replaceChildren(...(this.growing ? ["After \u201c\u2026", quote, "\u201d"] : ["What comes next"]));
    if (!prediction) {
      byId("likely").replaceChildren(...(piece ? [missing("This is too long ago to be remembered.")] : []));
      return;
    }
    const learned = softmax(prediction.logits);
    const parts = [["learned", learned], ["drawn", distribution(prediction.logits, this.draw())]];
    if (prediction.prior) parts.push(["counts", prediction.prior.probabilities], ["lstm", softmax(prediction.own)]);
    const ids = [...learned.keys()].sort((one, other) => learned[other] - learned[one] || one - other).slice(0, SHOWN);
    const written = piece?.ids[0];
    if (piece && !ids.includes(written)) ids.push(written);
    byId("likely").replaceChildren(...ids.map((id) => this.likelyRow(id, id === written, parts, place, piece, prediction)));
  }

  likelyRow(id, isWritten, parts, place, piece, prediction) {
    const token = this.generator.vocab.tokens[id];
    const isByte = this.generator.vocab.kind === "byte" && id >= 0x80;
    const name = isByte ? `0x${id.toString(16).toUpperCase()}` : named(token);
    const button = document.createElement("button");
    button.type = "button";
    button.title = isWritten ? "Written here; choose it to go on from here" : "Write on from here with this";
    if (isWritten) button.className = "written";
    const [label, bars, ...shares] = ["token", "bars", "share", "share"].map((kind) => {
      const part = document.createElement("span");
      part.className = kind;
      button.append(part);
      return part;
    });
    label.textContent = name;
    label.dir = "auto";
    for (const [kind, shareOf] of parts) {
      const bar = document.createElement("i");
      bar.className = kind;
      bar.style.width = `${100 * shareOf[id]}%`;
      bars.append(bar);
    }
    const [[, learned], [, drawn]] = parts;
    shares[0].textContent = percent(learned[id]);
    shares[1].textContent = percent(drawn[id]);
    const said = { learned: "as learned", drawn: "at these settings", counts: "by the counts", lstm: "by the LSTM" };
    const words = parts.map(([kind, shareOf]) => `${said[kind]} ${percent(shareOf[id])}`);
    const spoken = { " ": "space", "\n": "line end", "\t": "tab" }[token] ?? name;
    button.setAttribute("aria-label", `${spoken}: ${words.join(", ")}${isWritten ? "; written here" : ""}`);
    button.addEventListener("click", () => {
      const decode = this.generator.vocab.decoder();
      const surprise = -Math.log(learned[id]);
      this.branch(place, isWritten ? piece : { ids: [id], text: decode(id), surprise, prediction });
    });
    const row = document.createElement("li");
    row.append(button);
    return row;
  }

  /** The command that writes the same text in a terminal. */
  showCommand() {
    const { values } = this.generator;
    const draw = this.draw();
    const prompt = this.givenPrompt();
    const isPlain = !/[\p{Cc}\\\u2028\u2029]/u.test(prompt);
    const escaped = prompt.replace(/\\/g, "\\\\").replace(/\n/g, "\\n").replace(/\t/g, "\\t");
    const words = ["jaxlm", "sample", "--run", quoted(values.name), "-p", quoted(isPlain ? prompt : escaped)];
    if (!isPlain) words.push("--escapes");
    words.push("-t", draw.temperature, "-l", byId("length").value, "--seed", this.seed());
    for (const [flag, value] of [["--top-k", draw.topK], ["--top-p", draw.topP], ["--min-p", draw.minP]]) {
      if (value !== null) words.push(flag, value);
    }
    if (byId("mode").value !== values.mode) words.push("--mode", byId("mode").value);
    byId("command").textContent = visible(words.join(" "));
  }
}

/** A word as a shell reads it back. */
const quoted = (word) => (/^[\w./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);

/** One of several parts of the page at a time. */
function connectTabs() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const choose = (tab) => {
    for (const one of tabs) {
      const isChosen = one === tab;
      one.setAttribute("aria-selected", isChosen);
      one.tabIndex = isChosen ? 0 : -1;
      byId(one.getAttribute("aria-controls")).hidden = !isChosen;
    }
  };
  for (const [i, tab] of tabs.entries()) {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(i + step + tabs.length) % tabs.length];
      choose(next);
      next.focus();
    });
  }
}

function fillPage(values) {
  document.title = `${visible(values.name)} \u00b7 jaxlm`;
  byId("name").textContent = visible(values.name);
  const facts = new Map(values.facts);
  byId("summary").textContent = `A language model with ${facts.get("Parameters")} parameters, trained on ${visible(facts.get("Trained on"))}. It runs in this page.`;
  byId("prompt").value = values.seedText.trim() && values.seedText;
  byId("prompt").placeholder = values.seedText.trim() ? "" : `Nothing: a new ${values.piece} begins`;
  if (values.notation in PICTURES) byId("length").value = 1000; // A few pieces.
  byId("top-k").max = byId("top-k").value = values.model.vocabulary;
  const modes = { state: "all that was read", window: `the last ${values.length} tokens` };
  for (const [mode, text] of Object.entries(modes)) byId("mode").add(new Option(text, mode, false, mode === values.mode));
  const kinds = [["learned", "as learned"], ["drawn", "as set"]];
  if (values.model.ngram) kinds.push(["counts", "counts"], ["lstm", "LSTM"]);
  for (const [kind, text] of kinds) {
    const part = document.createElement("span");
    const box = document.createElement("i");
    box.className = kind;
    part.append(box, text);
    byId("legend").append(part);
  }
  const carried = values.text ? "the whole training text, which it counts when it opens, and which whoever has it can read" : "nothing of the training text but the samples";
  byId("contents").textContent = `This page holds the weights in ${values.precision}, and ${carried}. It asks for nothing from outside.`;
  for (const [name, fact] of values.facts) {
    const [term, text] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    text.textContent = visible(fact);
    byId("about").append(term, text);
  }
  byId("again").textContent = visible(values.command) || "None: jaxlm did not train it, but imported it.";
  byId("status").textContent = values.text ? "Counting the training text\u2026" : "";
}

/** The model, once it can write. */
const ready = (async () => {
  const values = JSON.parse(byId("values").textContent);
  connectTabs();
  fillPage(values);
  new Learning(values);
  await pause();
  const generator = await loadGenerator(values);
  await new Desk(generator).readPrompt();
  return generator;
})();
ready.catch((error) => {
  byId("status").textContent = "";
  byId("error").textContent = `This browser cannot run the model (${error.message}); a newer one can.`;
});
