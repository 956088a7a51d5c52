// Elements and words. Texts of the model and the user go in as text nodes only.

const facts = JSON.parse(document.getElementById("facts").textContent);
const byId = (id) => document.getElementById(id);

// Return an element. `on…` attributes are listeners; null, undefined and false leave one out.
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if ((value ?? false) === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") Object.assign(node.style, value);
    else node.setAttribute(key, value);
  }
  node.append(...children.flat().filter((child) => (child ?? false) !== false));
  return node;
}

const button = (text, onclick, attributes = {}) =>
  el("button", { type: "button", onclick, ...attributes }, text);

const VISIBLE = { " ": "␣", "\n": "⏎", "\t": "⇥", "\r": "\\r", "\u00a0": "⍽" };

// Return a text in which every character can be seen: no spaces, controls or marks of direction.
const visible = (text) => text.replace(/[\s\p{C}]/gu, (character) =>
  VISIBLE[character] ?? `\\u{${character.codePointAt(0).toString(16)}}`);
const piece = (token) => el("bdi", { class: "piece" }, visible(token) || "end");

const percent = (p) => `${p < 0.0005 ? Number((100 * p).toPrecision(2))
  : (100 * p).toFixed(p < 0.0995 ? 2 : 1)} %`;

// Grow a textarea with its text.
function grow(area) {
  area.style.height = "auto";
  area.style.height = `${Math.min(area.scrollHeight + 2, innerHeight / 2)}px`;
}

const area = (label, value, attributes = {}) => {
  const node = el("textarea", { "aria-label": label, rows: 3, spellcheck: "false", dir: "auto",
    ...attributes });
  node.value = value;
  node.addEventListener("input", () => grow(node));
  return node;
};

// Follow a text that grows, unless the reader has scrolled up.
function following(change) {
  const root = document.documentElement;
  const atEnd = root.scrollHeight - root.clientHeight - scrollY < 60;
  change();
  if (atEnd) scrollTo(0, root.scrollHeight);
}
