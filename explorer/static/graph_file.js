// An attribution graph as a file in circuit-tracer's format holds it, read for graph.js. Every text from a file is put into
// the page as text, never as HTML.
"use strict";

// Control and format characters are made visible, as the pages' own texts are.
function shown(text) {
  return String(text ?? "").slice(0, 512).replace(/\n/g, "\\n")
    .replace(/[\p{Cc}\p{Cf}\p{Co}\p{Cs}\u2028\u2029]/gu, (c) => "\\u" + c.codePointAt(0).toString(16).padStart(4, "0"));
}

// The fields of a graph file, whatever program wrote it; the server uses the same ones.
function understood(raw) {
  if (!raw || !Array.isArray(raw.nodes) || !Array.isArray(raw.links)) throw new Error("this is not an attribution graph");
  if (raw.nodes.length > 20000 || raw.links.length > 500000) throw new Error("this graph is too large; prune it");
  const kinds = { "cross layer transcoder": "feature", "mlp reconstruction error": "error", embedding: "token", logit: "logit" };
  const nodes = [], by = new Map();
  for (const node of raw.nodes) {
    if (typeof node.node_id !== "string") continue;
    const kind = kinds[node.feature_type] ?? "feature";
    const place = /^(\d{1,4})_(\d{1,9})_(\d{1,6})$/.exec(node.node_id);
    const kept = {
      id: node.node_id, kind, layer: String(node.layer) === "E" ? -1 : Number(node.layer) || 0,
      position: Number(node.ctx_idx) || 0, index: kind === "feature" && place ? Number(place[2]) : null,
      label: shown(node.clerp), activation: node.activation ?? null, influence: node.influence ?? null,
      probability: node.token_prob ?? null, into: [], out: [], received: 0,
    };
    nodes.push(kept);
    by.set(kept.id, kept);
  }
  const links = [];
  for (const link of raw.links) {
    const source = by.get(link.source), target = by.get(link.target), weight = Number(link.weight);
    if (!source || !target || !Number.isFinite(weight)) continue;
    const kept = { source, target, weight };
    links.push(kept);
    source.out.push(kept);
    target.into.push(kept);
    target.received += Math.abs(weight);
  }
  const q = raw.qParams ?? {};
  const groups = (Array.isArray(q.supernodes) ? q.supernodes : []).filter(Array.isArray)
    .map(([name, ...ids]) => ({ name: shown(name), ids: ids.filter((id) => by.has(id)) })).filter((g) => g.ids.length);
  const pinned = (Array.isArray(q.pinnedIds) ? q.pinnedIds : []).filter((id) => by.has(id));
  const tokens = (raw.metadata?.prompt_tokens ?? []).map(shown);
  return { raw, nodes, by, links, tokens, groups, pinned, scan: raw.metadata?.scan ?? "", slug: raw.metadata?.slug ?? "graph" };
}
