// Search in a static site: words are looked up in files that are loaded as scripts when needed.
"use strict";

const FEATURES_A_FILE = 1000, LETTERS = 2, SHOWN = 100;
const siteRoot = document.currentScript.dataset.root;
const wordsKnown = new Map(), featuresKnown = new Map();

function siteWords(letters, words) { wordsKnown.set(letters, words); }
function siteFeatures(start, features) { featuresKnown.set(start, features); }

const loading = new Map();
function loaded(name) {
  if (!loading.has(name)) {
    loading.set(name, new Promise((done) => {
      const script = document.createElement("script");
      script.src = `${siteRoot}words/${name}.js`;
      script.onload = done;
      script.onerror = done;  // no word of this site has this beginning
      document.head.append(script);
    }));
  }
  return loading.get(name);
}

const folded = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase().replace(/ß/g, "ss");

// Words as in the index: letters and digits, single characters for scripts without blanks; a star ends a beginning.
function wordsOf(text) {
  const pattern = /[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|(?:(?![\u3040-\u30ff\u3400-\u9fff])[\p{L}\p{N}])+\*?/gu;
  return [...new Set((folded(text).match(pattern) || []))].slice(0, 16);
}

async function featuresWith(word) {
  const begins = word.endsWith("*"), form = begins ? word.slice(0, -1) : word;
  const letters = [...form].slice(0, LETTERS).join("");
  await loaded("w-" + [...letters].map((letter) => letter.codePointAt(0).toString(16)).join("-"));
  const own = wordsKnown.get(letters) || {};
  if (!begins) return Object.hasOwn(own, form) ? own[form] : [];
  return [...new Set(Object.keys(own).filter((key) => key.startsWith(form)).flatMap((key) => own[key]))];
}

async function found(text) {
  const scores = new Map();
  for (const numbers of await Promise.all(wordsOf(text).map(featuresWith))) {
    numbers.forEach((number, rank) => scores.set(number, (scores.get(number) || 0) + 1 + 1 / (2 + rank)));
  }
  const best = [...scores].sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, SHOWN).map(([number]) => number);
  await Promise.all([...new Set(best.map((number) => Math.floor(number / FEATURES_A_FILE)))].map((file) => loaded(`features-${file}`)));
  return { n: scores.size, rows: best.map((number) => {
    const start = number - number % FEATURES_A_FILE;
    return (featuresKnown.get(start) || [])[number - start];
  }).filter(Boolean) };
}

async function show(text) {
  const list = document.querySelector("[data-found]"), said = document.querySelector("[data-said]");
  const place = text.trim().match(/^(\d+)\/(\d+)$/);
  const { n, rows } = place ? { n: 1, rows: [[+place[1], +place[2], ""]] } : await found(text);
  said.textContent = n ? `${n} feature${n === 1 ? "" : "s"}${n > rows.length ? `, of which the first ${rows.length}` : ""}.` : "No description in this site has these words.";
  list.replaceChildren(...rows.map(([layer, feature, label]) => {
    const item = document.createElement("li"), link = document.createElement("a"), words = document.createElement("bdi");
    item.dataset.row = "";
    link.className = "ref";
    link.href = `${siteRoot}feature/${layer}/${feature}.html`;
    link.textContent = `${layer}/${feature}`;
    words.textContent = label;
    item.append(link, " ", words);
    return item;
  }));
}

const field = document.querySelector("[data-words]");
const asked = new URLSearchParams(location.search).get("q");
if (field && asked) { field.value = asked; show(asked); }
