// An attribution graph in circuit-tracer's format: tokens from left to right, layers from below, as viewers of the field
// draw it. graph_file.js reads it.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const BACKGROUND_EDGES = 400;
const LISTED = 24;
const SHOWN_AT_FIRST = 250;
const box = document.getElementById("graph");

function el(name, attributes = {}, ...children) {
  const made = name in { svg: 1, g: 1, line: 1, circle: 1, rect: 1, text: 1, path: 1, title: 1 }
    ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const number = (value, digits = 3) => value === null || value === undefined ? "–"
  : Number(value).toPrecision(digits).replace(/\.?0+(?=$|e)/, "").replace("-", "−");
const percent = (value) => (value >= 0.0995 ? (100 * value).toFixed(0) : (100 * value).toPrecision(2)) + "%";

// At first, only the nodes of most influence of a large graph are shown.
function startingThreshold(nodes) {
  const known = nodes.map((node) => node.influence).filter((value) => value !== null).sort((a, b) => a - b);
  return known.length <= SHOWN_AT_FIRST ? 1 : Math.ceil(known[SHOWN_AT_FIRST] * 100) / 100;
}

class View {
  constructor(graph) {
    this.graph = graph;
    this.pinned = new Set(graph.pinned);
    this.groups = graph.groups;
    this.threshold = startingThreshold(graph.nodes);
    this.only = false;
    this.selected = null;
    this.recall();
    this.build();
    this.draw();
  }

  // Pins, groups and the pruning threshold are in the address, so that a view can be shared.
  recall() {
    try {
      const kept = JSON.parse(decodeURIComponent(location.hash.slice(1)) || "{}");
      if (Array.isArray(kept.p)) this.pinned = new Set(kept.p.filter((id) => this.graph.by.has(id)));
      if (Array.isArray(kept.g)) this.groups = kept.g.map(([name, ...ids]) => ({ name: shown(name), ids: ids.filter((id) => this.graph.by.has(id)) })).filter((g) => g.ids.length);
      if (kept.t > 0 && kept.t <= 1) this.threshold = kept.t;
      if (this.graph.by.has(kept.s)) this.selected = this.graph.by.get(kept.s);
      this.only = kept.o === 1;
    } catch { /* an address that somebody cut: shown as if it had none */ }
  }
  remember() {
    const kept = {};
    if (this.pinned.size) kept.p = [...this.pinned];
    if (this.groups.length) kept.g = this.groups.map((group) => [group.name, ...group.ids]);
    if (this.threshold < 1) kept.t = this.threshold;
    if (this.selected) kept.s = this.selected.id;
    if (this.only) kept.o = 1;
    const hash = Object.keys(kept).length ? "#" + encodeURIComponent(JSON.stringify(kept)) : " ";
    history.replaceState(null, "", hash === " " ? location.pathname + location.search : hash);
  }

  build() {
    box.replaceChildren();
    this.svg = el("svg", { class: "graph-svg", role: "application", tabindex: "0", "aria-label": "Attribution graph. Arrow keys go from node to node, Enter opens one, p pins it." });
    this.count = el("output", { class: "soft" });
    this.slider = el("input", { type: "range", min: "0.05", max: "1", step: "0.01", value: String(this.threshold), id: "prune", oninput: () => { this.threshold = Number(this.slider.value); this.fit = true; this.draw(); } });
    const only = el("input", { type: "checkbox", id: "only", onchange: () => { this.only = only.checked; this.fit = true; this.draw(); } });
    only.checked = this.only;
    const bar = el("div", { class: "graph-bar" },
      el("label", {}, "Share of influence kept ", this.slider), this.count,
      el("label", { class: "tick" }, only, " pinned alone"),
      el("button", { type: "button", class: "quiet", onclick: () => this.group() }, "group pinned…"),
      el("span", { class: "zoom" },
        el("button", { type: "button", class: "quiet", "aria-label": "Closer", onclick: () => this.zoom(0.8) }, "+"),
        el("button", { type: "button", class: "quiet", "aria-label": "Farther", onclick: () => this.zoom(1.25) }, "−"),
        el("button", { type: "button", class: "quiet", onclick: () => { this.fit = true; this.draw(); } }, "fit")),
      el("button", { type: "button", class: "quiet", onclick: () => this.save() }, "save with pins"));
    this.side = el("aside", { class: "graph-side", "aria-label": "Node", "aria-live": "polite" });
    box.append(bar, el("div", { class: "graph-both" }, this.svg, this.side));
    this.fit = true;
    this.svg.addEventListener("wheel", (event) => { event.preventDefault(); this.zoom(event.deltaY > 0 ? 1.12 : 0.89, event); }, { passive: false });
    let grip = null;
    this.svg.addEventListener("pointerdown", (event) => { if (event.button === 0) grip = { x: event.clientX, y: event.clientY, view: [...this.view] }; });
    addEventListener("pointermove", (event) => {
      if (!grip) return;
      const scale = this.view[2] / this.svg.clientWidth;
      this.view[0] = grip.view[0] - (event.clientX - grip.x) * scale;
      this.view[1] = grip.view[1] - (event.clientY - grip.y) * scale;
      this.place();
    });
    addEventListener("pointerup", () => { grip = null; });
    this.svg.addEventListener("keydown", (event) => this.key(event));
  }

  kept(node) {
    if (this.only) return this.pinned.has(node.id) || this.groups.some((group) => group.ids.includes(node.id));
    return node.kind === "logit" || node.kind === "token" || this.pinned.has(node.id) || node === this.selected
      || node.influence === null || node.influence <= this.threshold;
  }

  // Nodes; if only pinned ones are shown, a group is one node.
  units() {
    const nodes = this.graph.nodes.filter((node) => this.kept(node));
    if (!this.only) return nodes.map((node) => ({ ...node, nodes: [node], name: node.label }));
    const grouped = new Set(this.groups.flatMap((group) => group.ids));
    const units = nodes.filter((node) => !grouped.has(node.id)).map((node) => ({ ...node, nodes: [node], name: node.label }));
    for (const group of this.groups) {
      const members = group.ids.map((id) => this.graph.by.get(id));
      const mean = (f) => members.reduce((sum, node) => sum + f(node), 0) / members.length;
      units.push({ id: "group " + group.name, kind: "group", nodes: members, name: group.name, layer: Math.round(mean((n) => n.layer)), position: Math.round(mean((n) => n.position)) });
    }
    return units;
  }

  draw() {
    const units = this.units();
    const cells = new Map(), widths = [];
    for (const unit of units) {
      const key = unit.layer + " " + unit.position;
      if (!cells.has(key)) cells.set(key, []);
      cells.get(key).push(unit);
    }
    const last = Math.max(0, this.graph.tokens.length - 1, ...units.map((unit) => unit.position));
    for (let position = 0; position <= last; position++) widths[position] = this.only ? 150 : 30;
    const gap = this.only ? 150 : 13;
    for (const [key, members] of cells) {
      const position = Number(key.split(" ")[1]);
      widths[position] = Math.max(widths[position], members.length * gap + 16);
    }
    const starts = [0];
    widths.forEach((width, position) => { starts[position + 1] = starts[position] + width; });
    const layers = [...new Set(units.map((unit) => unit.layer))].sort((a, b) => a - b);
    const row = new Map(layers.map((layer, at) => [layer, at]));
    const pitch = Math.max(this.only ? 62 : 24, Math.min(80, 0.6 * starts.at(-1) / Math.max(1, layers.length)));
    const height = layers.length * pitch;
    for (const [key, members] of cells) {
      const [layer, position] = key.split(" ").map(Number);
      members.sort((a, b) => (a.influence ?? 0) - (b.influence ?? 0));
      members.forEach((unit, at) => {
        unit.x = starts[position] + widths[position] / 2 + (at - (members.length - 1) / 2) * gap;
        unit.y = height - (row.get(layer) + 0.5) * pitch;
      });
    }
    this.shownUnits = units;
    this.place_of = new Map(units.flatMap((unit) => unit.nodes.map((node) => [node.id, unit])));
    const content = el("g");
    layers.forEach((layer) => {
      const y = height - (row.get(layer) + 0.5) * pitch;
      const top = this.graph.nodes.some((node) => node.kind === "logit" && node.layer === layer);
      content.append(el("line", { class: "g-row", x1: -30, x2: starts.at(-1), y1: y, y2: y }),
        el("text", { class: "g-name", x: -36, y: y + 4, "text-anchor": "end" }, layer < 0 ? "tokens" : top ? "next" : "L" + layer));
    });
    widths.forEach((width, position) => {
      if (position) content.append(el("line", { class: "g-column", x1: starts[position], x2: starts[position], y1: 0, y2: height }));
      content.append(el("text", { class: "g-token", x: starts[position] + width / 2, y: height + 16, "text-anchor": "middle" }, (this.graph.tokens[position] ?? "").slice(0, 18)));
    });
    this.edgeLayer = el("g");
    content.append(this.edgeLayer);
    for (const unit of units) content.append(this.mark(unit));
    this.svg.replaceChildren(content);
    if (this.fit) { this.view = [-95, -14, starts.at(-1) + 115, height + 40]; this.fit = false; }
    this.count.textContent = units.length + " of " + this.graph.nodes.length + " nodes";
    this.place();
    this.edges(this.selected);
    this.tell();
    this.remember();
  }

  mark(unit) {
    const kind = unit.kind, pinned = unit.nodes.some((node) => this.pinned.has(node.id));
    const group = el("g", { class: `g-node ${kind}${pinned ? " pinned" : ""}${unit.nodes[0] === this.selected ? " chosen" : ""}`, transform: `translate(${unit.x} ${unit.y})`, "data-id": unit.nodes[0].id });
    const title = el("title");
    title.textContent = (unit.name || unit.id) + (unit.activation ? `, activation ${number(unit.activation)}` : "");
    group.append(title);
    if (kind === "group") group.append(el("rect", { x: -66, y: -13, width: 132, height: 26, rx: 6 }));
    else if (kind === "error") group.append(el("path", { d: "M-4 -4 4 4 M-4 4 4 -4" }));
    else if (kind === "token" || kind === "logit") group.append(el("rect", { x: -5, y: -5, width: 10, height: 10, rx: 2 }));
    else group.append(el("circle", { r: 5 }));
    if (this.only || kind === "logit") {
      const name = el("text", { class: "g-label", y: kind === "group" ? 4 : -9, "text-anchor": "middle" });
      const text = kind === "logit" ? /"(.*)" \(p/.exec(unit.name)?.[1] ?? unit.name : unit.name || unit.id;
      name.textContent = text.length > 22 ? text.slice(0, 21) + "…" : text;
      if (this.only || unit === this.shownUnits.find((one) => one.kind === "logit")) group.append(name);
    }
    group.addEventListener("pointerenter", () => { if (!this.selected) this.edges(unit.nodes[0]); });
    group.addEventListener("pointerleave", () => { if (!this.selected) this.edges(null); });
    group.addEventListener("click", (event) => { event.stopPropagation(); this.choose(unit.nodes[0]); });
    return group;
  }

  // Links between two places; for groups, the sum.
  edges(node) {
    const sums = new Map();
    const links = node ? [...node.into, ...node.out]
      : this.only ? this.graph.links : this.strongest ??= [...this.graph.links].sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight)).slice(0, 4 * BACKGROUND_EDGES);
    for (const link of links) {
      const from = this.place_of.get(link.source.id), to = this.place_of.get(link.target.id);
      if (!from || !to || from === to) continue;
      const key = from.id + "→" + to.id;
      const sum = sums.get(key) ?? { from, to, weight: 0 };
      sum.weight += link.weight;
      sums.set(key, sum);
    }
    let drawn = [...sums.values()].sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
    drawn = drawn.slice(0, node || this.only ? 1500 : BACKGROUND_EDGES);
    const most = Math.abs(drawn[0]?.weight ?? 1) || 1;
    this.edgeLayer.replaceChildren(...drawn.map(({ from, to, weight }) => {
      const bend = (from.y + to.y) / 2;
      return el("path", {
        class: "g-edge " + (weight < 0 ? "minus" : "plus") + (node ? "" : " faint"),
        d: `M${from.x} ${from.y} C${from.x} ${bend} ${to.x} ${bend} ${to.x} ${to.y}`,
        "stroke-width": (0.4 + 3.2 * Math.abs(weight) / most).toFixed(2),
      });
    }));
  }

  choose(node) {
    this.selected = this.selected === node ? null : node;
    this.draw();
  }

  pin(node) {
    if (!this.pinned.delete(node.id)) this.pinned.add(node.id);
    this.draw();
  }

  group() {
    const taken = new Set(this.groups.flatMap((group) => group.ids));
    const ids = [...this.pinned].filter((id) => !taken.has(id));
    if (ids.length < 2) { this.say("Pin two or more nodes that are in no group yet, to group them."); return; }
    const field = el("input", { "aria-label": "Name of the group", maxlength: "60", placeholder: "Name of the group" });
    this.side.prepend(el("form", { class: "note-form", onsubmit: (event) => { event.preventDefault(); this.groups = [...this.groups, { name: shown(field.value.trim()) || "group " + (this.groups.length + 1), ids }]; this.only = true; this.fit = true; this.build(); this.draw(); } }, field, el("button", {}, `group ${ids.length}`)));
    field.focus();
  }

  save() {
    const raw = { ...this.graph.raw, qParams: { ...this.graph.raw.qParams, pinnedIds: [...this.pinned], supernodes: this.groups.map((group) => [group.name, ...group.ids]) } };
    const link = el("a", { href: URL.createObjectURL(new Blob([JSON.stringify(raw)], { type: "application/json" })), download: (this.graph.slug || "graph").replace(/[^A-Za-z0-9_.-]/g, "-") + ".json" });
    link.click();
    URL.revokeObjectURL(link.href);
  }

  say(sentence) { this.side.prepend(el("p", { class: "note" }, sentence)); }

  tell() {
    const node = this.selected;
    const pins = [...this.pinned].map((id) => this.graph.by.get(id));
    const parts = [];
    if (node) {
      const pattern = box.dataset.feature, own = pattern && node.kind === "feature" && node.index !== null;
      const heading = el("h2", {}, own ? el("a", { href: pattern.replace("LAYER", node.layer).replace("FEATURE", node.index) }, `${node.layer}/${node.index}`) : node.kind === "feature" && node.index !== null ? `${node.layer}/${node.index}` : node.kind);
      parts.push(heading, el("p", {}, el("bdi", {}, node.label || "No description.")));
      const facts = [`at ${this.graph.tokens[node.position] ?? ""} (${node.position})`];
      if (node.activation !== null) facts.push("activation " + number(node.activation));
      if (node.influence !== null) facts.push("within " + percent(node.influence) + " of influence");
      if (node.kind === "logit" && node.probability !== null) facts.push("probability " + number(node.probability));
      parts.push(el("p", { class: "soft" }, facts.join(", ")), el("button", { type: "button", class: "quiet", onclick: () => this.pin(node) }, this.pinned.has(node.id) ? "unpin" : "pin"));
      const card = el("div", { class: "graph-card" });
      parts.push(card);
      if (own && box.dataset.card) this.card(card, node);
      parts.push(this.list("From", node.into, (link) => link.source, node.received), this.list("To", node.out, (link) => link.target, null));
    } else {
      parts.push(el("p", { class: "soft" }, "Choose a node for its description and its edges. Scroll to zoom, drag to move."));
    }
    if (pins.length || this.groups.length) {
      parts.push(el("h3", {}, "Pinned"));
      const list = el("ul", { class: "plain" });
      for (const group of this.groups) list.append(el("li", {}, el("b", {}, group.name), ` ${group.ids.length} nodes `, el("button", { type: "button", class: "quiet", onclick: () => { this.groups = this.groups.filter((one) => one !== group); this.draw(); } }, "ungroup")));
      for (const pin of pins) list.append(el("li", {}, this.button(pin)));
      parts.push(list);
    }
    this.side.replaceChildren(...parts);
  }

  button(node) {
    const name = node.kind === "feature" && node.index !== null ? `${node.layer}/${node.index} ` : "";
    return el("button", { type: "button", class: "link", onclick: () => { this.selected = null; this.choose(node); } }, el("bdi", {}, name + (node.label || node.id)));
  }

  list(title, links, other, received) {
    const sorted = [...links].sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight)).slice(0, LISTED);
    if (!sorted.length) return el("span");
    const rows = sorted.map((link) => {
      const total = received ?? link.target.received;
      return el("tr", {}, el("td", {}, this.button(other(link))), el("td", { class: "n" }, number(link.weight)), el("td", { class: "n soft" }, total ? percent(Math.abs(link.weight) / total) : "–"));
    });
    return el("div", {}, el("h3", {}, `${title} (${links.length})`), el("table", { class: "shares" }, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "node"), el("th", { scope: "col", class: "n" }, "weight"), el("th", { scope: "col", class: "n", title: "Share of all that the target receives" }, "share"))), el("tbody", {}, ...rows)));
  }

  // The feature's own page in short: its description, and its greatest activations.
  async card(place, node) {
    try {
      const answer = await fetch(box.dataset.card.replace("LAYER", node.layer).replace("FEATURE", node.index));
      if (!answer.ok || this.selected !== node) return;
      const page = await answer.json();
      const list = el("ul", { class: "plain" });
      for (const row of page.panels.contexts.rows.slice(0, 5)) {
        if (row.tokens) list.append(el("li", { class: "graph-context" }, el("bdi", {}, shown((row.before ?? "").slice(-60))), el("mark", { class: "a7" }, shown(row.token)), el("bdi", {}, shown((row.after ?? "").slice(0, 40)))));
      }
      if (list.children.length) place.append(el("h3", {}, "Where it fires"), list);
    } catch { /* the card is an extra: the link to the page stands above */ }
  }

  zoom(factor, event) {
    const frame = this.svg.getBoundingClientRect();
    const fx = event ? (event.clientX - frame.left) / frame.width : 0.5, fy = event ? (event.clientY - frame.top) / frame.height : 0.5;
    this.view = [this.view[0] + this.view[2] * fx * (1 - factor), this.view[1] + this.view[3] * fy * (1 - factor), this.view[2] * factor, this.view[3] * factor];
    this.place();
  }

  place() { this.svg.setAttribute("viewBox", this.view.map((value) => value.toFixed(1)).join(" ")); }

  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "p" && this.selected) { this.pin(this.selected); event.preventDefault(); return; }
    if (event.key === "Escape") { this.selected = null; this.draw(); return; }
    if (event.key === "+" || event.key === "-") { this.zoom(event.key === "+" ? 0.8 : 1.25); return; }
    if (event.key === "Enter" && this.selected) { const link = this.side.querySelector("h2 a"); if (link) location.assign(link.href); return; }
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const now = this.selected && this.place_of.get(this.selected.id);
    if (!now) { this.choose((this.shownUnits.find((unit) => unit.kind === "logit") ?? this.shownUnits[0]).nodes[0]); return; }
    const [dx, dy] = step;
    const ahead = this.shownUnits.filter((unit) => (unit.x - now.x) * dx + (unit.y - now.y) * dy > 1)
      .sort((a, b) => far(a) - far(b));
    function far(unit) { return Math.abs((unit.x - now.x) * (dx ? 1 : 4)) + Math.abs((unit.y - now.y) * (dy ? 1 : 4)); }
    if (ahead.length) { this.selected = null; this.choose(ahead[0].nodes[0]); this.svg.focus(); }
  }
}

function show(raw) {
  try { new View(understood(raw)); } catch (error) { box.replaceChildren(el("p", { class: "error" }, error.message)); }
}

const file = document.querySelector("[data-open-graph]");
if (file) {
  file.closest("label").hidden = false;
  file.addEventListener("change", async () => {
    const chosen = file.files[0];
    if (!chosen) return;
    if (chosen.size > 64e6) { box.replaceChildren(el("p", { class: "error" }, "This file is larger than 64 MB.")); return; }
    let raw = null;
    try { raw = JSON.parse(await chosen.text()); } catch { box.replaceChildren(el("p", { class: "error" }, "This file is not JSON.")); return; }
    box.removeAttribute("data-card");
    history.replaceState(null, "", location.pathname);
    show(raw);
  });
}

const embedded = document.getElementById("graph-data");
if (embedded) show(JSON.parse(embedded.textContent));
else if (box && box.dataset.src) fetch(box.dataset.src).then((answer) => answer.json()).then(show, () => box.replaceChildren(el("p", { class: "error" }, "The graph could not be read.")));
