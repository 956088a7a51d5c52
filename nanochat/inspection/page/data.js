// The facts of the trace: arrays are decoded when they are first read; labels; decimals.

const facts = JSON.parse(document.getElementById("facts").textContent);
const config = facts.config, length = facts.tokens.length;
const operations = new Map(facts.operations.map((operation) => [operation.name, operation]));
const attentionLayers = facts.operations.filter((o) => o.name.endsWith(".attn.weights")).length;
const decoded = new Map();

const range = (from, to) => Array.from({ length: Math.max(to - from, 0) }, (_, i) => from + i);
const own = (object, name) => (object && Object.hasOwn(object, name) ? object[name] : undefined);
const isWeight = (name) => own(facts.weights, name) !== undefined;

// An array or weight, or its gradient: {shape, numbers, narrow}; null if the page does not have it.
function arrayOf(name, gradient = false) {
  const places = gradient ? [facts.gradients, facts.weight_gradients] : [facts.arrays, facts.weights];
  const packed = own(places[0], name) ?? own(places[1], name);
  return packed ? unpacked(packed) : null;
}

function unpacked(packed) {
  let array = decoded.get(packed);
  if (!array) {
    const raw = atob(packed.base64), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    const single = packed.type === "f4";
    const numbers = new (single ? Float32Array : Float64Array)(bytes.buffer);
    // The numbers of a float64 run may happen to fit in float32; they are shown as float64.
    array = { shape: packed.shape, numbers, narrow: single && facts.dtype !== "float64" };
    decoded.set(packed, array);
  }
  return array;
}

function offsetOf(array, index) {
  if (index.length !== array.shape.length) return -1;
  let offset = 0;
  for (let d = 0; d < index.length; d++) {
    if (!(index[d] >= 0 && index[d] < array.shape[d])) return -1;
    offset = offset * array.shape[d] + index[d];
  }
  return offset;
}

const at = (array, index) => array.numbers[offsetOf(array, index)];
const valueOf = (name, index) => at(arrayOf(name), index);
const gradientOf = (name, index) => at(arrayOf(name, true), index);
const exists = (name, index) => {
  const array = arrayOf(name);
  return array !== null && offsetOf(array, index) >= 0;
};

// ── words ────────────────────────────────────────────────────────────────────────────────────────

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

// ── decimals ─────────────────────────────────────────────────────────────────────────────────────

// Return the fewest digits that mean this number and no other of its type.
function shortest(x, narrow = false) {
  if (narrow && Number.isFinite(x)) {
    for (let digits = 1; digits < 9; digits++) {
      const rounded = Number(x.toPrecision(digits));
      if (Math.fround(rounded) === x) return String(rounded);
    }
    return String(Number(x.toPrecision(9)));
  }
  return x === null || Number.isNaN(x) ? "NaN" : String(x).replace("Infinity", "∞");
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

const DIGITS = ["short", "full", "exact"];
const state = { digits: "short", theme: "auto", token: null };

const rounded = (x, digits) => (Number.isFinite(x) ? String(Number(x.toPrecision(digits))) : shortest(x));
const full = (x, narrow) => (state.digits === "exact" ? exactly(x) : shortest(x, narrow));
const brief = (x, narrow) => (state.digits === "short" ? rounded(x, 5) : full(x, narrow));
const fixed = (x, places = 3) => (Number.isFinite(x) ? x.toFixed(places) : shortest(x));
const percent = (p) => `${p < 0.0005 ? rounded(100 * p, 2) : (100 * p).toFixed(p < 0.0995 ? 2 : 1)} %`;
const largestOf = (numbers) => {
  let largest = 0;
  for (const x of numbers) if (Number.isFinite(x) && Math.abs(x) > largest) largest = Math.abs(x);
  return largest;
};
