// The facts of the trace: arrays are decoded when they are first read; labels; decimals.

const facts = JSON.parse(document.getElementById("facts").textContent);
const length = facts.tokens.length;
const operations = new Map(facts.operations.map((operation) => [operation.name, operation]));
const attentionLayers = facts.operations.filter((o) => o.name.endsWith(".attn.weights")).length;
const decoded = new Map();

const range = (from, to) => Array.from({ length: Math.max(to - from, 0) }, (_, i) => from + i);
const own = (object, name) => (object && Object.hasOwn(object, name) ? object[name] : undefined);
const isWeight = (name) => own(facts.weights, name) !== undefined;

// An array or weight, or its gradient: {shape, numbers, narrow}; null if the page does not have it.
function arrayOf(name, gradient = false) {
  const packed = gradient ? own(facts.gradients, name) ?? own(facts.weight_gradients, name)
    : own(facts.arrays, name) ?? own(facts.weights, name);
  return packed ? unpacked(packed) : null;
}

function unpacked(packed) {
  if (!decoded.has(packed)) {
    const { buffer } = Uint8Array.from(atob(packed.base64), (c) => c.charCodeAt(0));
    const single = packed.type === "f4";
    const numbers = single ? new Float32Array(buffer) : new Float64Array(buffer);
    // The numbers of a float64 run may happen to fit in float32; they are shown as float64.
    const narrow = single && facts.dtype !== "float64";
    decoded.set(packed, { shape: packed.shape, numbers, narrow });
  }
  return decoded.get(packed);
}

// The place of an index in an array, or -1.
function offsetOf({ shape }, index) {
  const inside = index.length === shape.length && index.every((i, d) => i >= 0 && i < shape[d]);
  return inside ? index.reduce((offset, i, d) => offset * shape[d] + i) : -1;
}

const at = (array, index) => array.numbers[offsetOf(array, index)];
const valueOf = (name, index) => at(arrayOf(name), index);
const gradientOf = (name, index) => at(arrayOf(name, true), index);
const exists = (name, index) => {
  const array = arrayOf(name);
  return array !== null && offsetOf(array, index) >= 0;
};

// ── words ──
const VISIBLE = { " ": "␣", "\n": "⏎", "\t": "⇥", "\r": "\\r", "\u00a0": "⍽" };

// Return a text in which every character can be seen: no spaces, controls or marks of direction.
function visible(text) {
  return text.replace(/[\s\p{C}]/gu, (c) => VISIBLE[c] ?? `\\u{${c.codePointAt(0).toString(16)}}`);
}

const pieceOf = (token, empty = "end") => visible(facts.vocabulary[token] ?? "") || empty;
const readPiece = (t) => pieceOf(facts.tokens[t], "start"); // what is read at index t
const targetPiece = (t) => pieceOf(facts.targets[t]); // what is to be predicted there
const source = facts.targets.map((token) => facts.vocabulary[token]).join("");
const numberName = (name, index) => `${name}[${index.join(", ")}]`;

// ── decimals ──
// Return the fewest digits that mean this number and no other of its type.
function shortest(x, narrow = false) {
  if (!Number.isFinite(x)) return String(x ?? NaN).replace("Infinity", "∞");
  const rounds = (n) => Number(x.toPrecision(n));
  return String(narrow ? rounds(range(1, 10).find((n) => Math.fround(rounds(n)) === x)) : x);
}

// Return all decimals of a number: m / 2ⁿ = m · 5ⁿ / 10ⁿ.
function exactly(x) {
  if (!Number.isFinite(x)) return shortest(x);
  let magnitude = Math.abs(x), places = 0;
  for (; !Number.isInteger(magnitude); places++) magnitude *= 2;
  const digits = String(BigInt(magnitude) * 5n ** BigInt(places)).padStart(places + 1, "0");
  const cut = digits.length - places;
  return (x < 0 ? "-" : "") + digits.slice(0, cut) + (places ? "." + digits.slice(cut) : "");
}

const state = { digits: "short", theme: "auto", token: null };

const rounded = (x, n) => (Number.isFinite(x) ? String(Number(x.toPrecision(n))) : shortest(x));
const full = (x, narrow) => (state.digits === "exact" ? exactly(x) : shortest(x, narrow));
const brief = (x, narrow) => (state.digits === "short" ? rounded(x, 5) : full(x, narrow));
const fixed = (x, places = 3) => (Number.isFinite(x) ? x.toFixed(places) : shortest(x));
const percent = (p) =>
  `${p < 0.0005 ? rounded(100 * p, 2) : (100 * p).toFixed(p < 0.0995 ? 2 : 1)} %`;
const largestOf = (numbers) =>
  numbers.reduce((most, x) => (Number.isFinite(x) ? Math.max(most, Math.abs(x)) : most), 0);
