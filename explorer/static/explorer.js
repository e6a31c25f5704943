// Optional JavaScript of pages: keys, copying SQL, light or dark. Without it every page can be read and every link works.
"use strict";

const root = document.documentElement;
const kept = (() => { try { return window.localStorage; } catch { return null; } })();
const theme = kept && kept.getItem("theme");
if (theme === "light" || theme === "dark") root.dataset.theme = theme;

const toggle = document.querySelector("[data-theme-toggle]");
if (toggle) {
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    if (kept) kept.setItem("theme", root.dataset.theme);
  });
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const text = button.parentElement.querySelector("pre").textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(button.parentElement.querySelector("pre"));
      button.textContent = "selected";
    }
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });
}

// j and k: the next and previous page where pages follow one another, else the next and previous row.
const rows = [...document.querySelectorAll("[data-row]")];
let at = -1;
function step(by) {
  const follow = document.querySelector(by > 0 ? 'head link[rel="next"]' : 'head link[rel="prev"]');
  if (follow && !document.querySelector("[data-rows-first]")) { location.assign(follow.href); return; }
  const seen = rows.filter((row) => row.offsetParent !== null);
  if (!seen.length) return;
  const now = seen.indexOf(document.activeElement.closest("[data-row]"));
  at = Math.max(0, Math.min(seen.length - 1, (now >= 0 ? now : at) + by));
  seen[at].tabIndex = -1;
  seen[at].focus();
  seen[at].scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const field = event.target.closest("input, select, textarea, [contenteditable]");
  if (event.key === "Escape" && field) { field.blur(); return; }
  if (field) return;
  if (event.key === "/") {
    const find = document.querySelector("[data-find]");
    if (find) { event.preventDefault(); find.focus(); find.select(); }
  } else if (event.key === "j") step(1);
  else if (event.key === "k") step(-1);
  else if (event.key === "Enter" && event.target.matches("[data-row]")) {
    const link = event.target.querySelector("a[href]");
    if (link) location.assign(link.href);
  }
});

// Neighbours take a moment to compute, so they are loaded after the page; without JavaScript there is a link to them.
const place = document.querySelector("[data-neighbours]");
if (place) {
  fetch(place.dataset.neighbours).then((answer) => answer.json()).then((page) => {
    const found = page.panels.neighbours?.rows.slice(0, 6) ?? [];
    const list = document.createElement("table");
    list.className = "shares";
    for (const row of found) {
      const line = list.insertRow(), link = document.createElement("a"), text = document.createElement("bdi");
      link.href = place.dataset.feature.replace("LAYER", row.layer).replace("FEATURE", row.feature);
      link.className = "ref";
      link.textContent = `${row.layer}/${row.feature}`;
      text.textContent = (row.description ?? "").slice(0, 60).replace(/[\p{Cc}\p{Cf}]/gu, "\ufffd");
      line.insertCell().append(link);
      line.insertCell().append(text);
      line.cells[1].className = "text";
      const cosine = line.insertCell();
      cosine.className = "n";
      cosine.textContent = row.cosine.toFixed(2).replace("-", "−");
    }
    if (found.length) place.prepend(list);
  }, () => {});
}
