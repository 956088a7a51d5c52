// Elements, colors, heatmaps, strips of tokens, bars. Texts of the model go in as text nodes only.

const SVG = "http://www.w3.org/2000/svg";

// Add children; those that a condition leaves out are null, undefined or false.
const fill = (node, ...children) =>
  node.append(...children.flat().filter((child) => (child ?? false) !== false));

// Return an element. `on…` attributes are listeners.
function el(tag, attributes = {}, ...children) {
  const node = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4))
    : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if ((value ?? false) === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") Object.assign(node.style, value);
    else node.setAttribute(key, value);
  }
  fill(node, ...children);
  return node;
}

const link = (path, text, attributes = {}) => el("a", { href: `#${path}`, ...attributes }, text);
const pathOf = (view, name, index) => [view, name, ...index].join("/");
const piece = (text) => el("bdi", { class: "piece" }, text);
const digits = (text) => el("span", { class: "n" }, text);
const lead = (...content) => el("p", { class: "lead" }, ...content);
const note = (...content) => el("p", { class: "note" }, ...content);
const lineOf = (op) => el("code", { class: "line" }, op.line.join(":"));
const why = (view) =>
  note("Left out: ", facts.left_out?.[view] ?? "the model or the text is too large", ".");

// A number that leads to its panel, the value's or the gradient's.
function numberLink({ name, index }, asGradient = false) {
  const array = arrayOf(name, asGradient), x = at(array, index);
  const what = `${asGradient ? "d loss / d " : ""}${numberName(name, index)}`;
  const title = `${what} = ${shortest(x, array.narrow)}`;
  return link(pathOf(asGradient ? "gradient" : "number", name, index), brief(x, array.narrow),
    { class: "n", title, "aria-label": title });
}

// ── colors ──
const channels = (hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16));
const stops = (text) => text.split(" ").map(channels);

// Lightness alone orders the colors of a loss, as in cividis, so the color-blind can read them.
const SCALES = {
  light: {
    surprise: stops("f5f2ea efe2b0 d9c46f b0a06f 7f7c76 4f5a70 203a66 00224e"),
    weight: stops("f4f2ee 7badd6 0b3c74"), below: stops("f4f2ee 1b5aa6"),
    above: stops("f4f2ee b9500a"),
  },
  dark: {
    surprise: stops("202634 123570 3b496c 575d6d 707173 8a8678 a59c74 c3b369 e1cc55 fee838"),
    weight: stops("202226 2f6fb0 d3e8ff"), below: stops("202226 62aaf2"),
    above: stops("202226 f59b4c"),
  },
};
const darkSystem = matchMedia("(prefers-color-scheme: dark)");
const themeShown = () => {
  if (state.theme !== "auto") return state.theme;
  return darkSystem.matches ? "dark" : "light";
};

function between(scale, part) {
  const colors = SCALES[themeShown()][scale];
  const place = Math.min(Math.max(part, 0), 1) * (colors.length - 1);
  const i = Math.min(Math.floor(place), colors.length - 2);
  return colors[i].map((low, c) => Math.round(low + (colors[i + 1][c] - low) * (place - i)));
}

// Scales: a part of −1 … 1 or 0 … 1 to a color. What is small is close to the page's own color.
const diverging = (part) => between(part < 0 ? "below" : "above", Math.abs(part));
const sequential = (part) => between("weight", part);
const surprise = (part) => between("surprise", part);
const css = (color) => `rgb(${color.join(" ")})`;

// Black or white, whichever is easier to read on a color: the contrast is at least 4.5.
function inkOn(color) {
  const [r, g, b] = color.map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
}

const painted = (color) => (color ? { background: css(color), color: inkOn(color) }
  : { background: "", color: "" });

// Labels under an axis: [part of its length, text].
const ticksOf = (ticks) => ticks.map(([part, text]) => el("span", { class: "tick",
  style: { left: `${100 * part}%`, transform: `translateX(${-100 * part}%)` } }, text));

function legend(scale, from, ticks) {
  const colors = range(0, 21).map((i) => css(scale(from + (1 - from) * i / 20))).join(", ");
  return el("div", { class: "legend", "aria-hidden": "true" }, el("span", { class: "ramp",
    style: { background: `linear-gradient(90deg, ${colors})` } }), ticksOf(ticks));
}

const divergingLegend = (most) =>
  legend(diverging, -1, [[0, `−${rounded(most, 3)}`], [0.5, "0"], [1, rounded(most, 3)]]);

// ── heatmaps ──
const clamped = (x, count) => Math.min(Math.max(x, 0), count - 1);

// A matrix as colors. Its cells are reached by pointer and arrow keys; `pick` opens one.
//   at(i, j): a number, -Infinity is left out; name: what a reader hears; show(i, j): the readout
function heatmap({ rows, columns, at, scale, name, rowLabel, columnLabel, square, show, pick }) {
  const high = square ? Math.max(Math.min(22, Math.floor(square / rows)), 2) : rows > 48 ? 9 : 18;
  const canvas = el("canvas", { width: columns, height: rows });
  const cursor = el("div", { class: "cursor", hidden: "" });
  let place = [0, 0];
  const select = (i, j, quiet = false) => {
    place = [i, j];
    cursor.hidden = false;
    Object.assign(cursor.style, { left: `${100 * j / columns}%`, width: `${100 / columns}%`,
      top: `${100 * i / rows}%`, height: `${100 / rows}%` });
    if (!quiet) show(i, j);
  };
  const selectUnder = (event) => {
    const box = grid.getBoundingClientRect();
    select(clamped(Math.floor((event.clientY - box.top) / box.height * rows), rows),
      clamped(Math.floor((event.clientX - box.left) / box.width * columns), columns));
  };
  const grid = el("div", {
    class: "grid", tabindex: "0", role: "application", "aria-roledescription": "matrix",
    "aria-label": `${name}, ${rows} rows, ${columns} columns; arrow keys move, Enter opens one`,
    style: { height: `${rows * high}px`, minWidth: `${columns * (square ? high : 5)}px`,
      maxWidth: `${columns * (square ? high : 36)}px` }, onpointermove: selectUnder,
    onfocus: () => select(...place), onclick: (event) => { selectUnder(event); pick(...place); },
    onkeydown: (event) => {
      const [i, j] = place, to = { ArrowUp: [i - 1, j], ArrowDown: [i + 1, j], Home: [i, 0],
        ArrowLeft: [i, j - 1], ArrowRight: [i, j + 1], End: [i, columns - 1] }[event.key];
      if (event.key === "Enter" || event.key === " ") pick(i, j);
      else if (to) select(clamped(to[0], rows), clamped(to[1], columns));
      else return;
      event.preventDefault();
    },
  }, canvas, cursor);
  const pixels = new ImageData(columns, rows);
  for (let k = 0; k < rows * columns; k++) {
    const x = at(Math.floor(k / columns), k % columns);
    if (x !== -Infinity) pixels.data.set([...scale(x), 255], 4 * k);
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  const every = Math.ceil(13 / high), hidden = { "aria-hidden": "true" };
  const labels = rowLabel && el("div", { class: "rows", ...hidden,
    style: { lineHeight: `${high * every}px` } },
  range(0, Math.floor(rows / every)).map((i) => el("bdi", {}, rowLabel(i * every))));
  const heads = columnLabel && high >= 13 && el("div", { class: "heads", ...hidden,
    style: { width: `${columns * high}px` } },
  range(0, columns).map((j) => el("bdi", { style: { width: `${high}px` } }, columnLabel(j))));
  const hide = () => { cursor.hidden = true; };
  return { node: el("div", { class: "matrix" }, heads, labels, grid), select, grid, hide };
}

// ── tokens ──
// Keys that move along a row of things, or to an end of it.
function moved(event, now, last) {
  const to = { ArrowLeft: now - 1, ArrowUp: now - 1, ArrowRight: now + 1, ArrowDown: now + 1,
    Home: 0, End: last }[event.key];
  if (to !== undefined) event.preventDefault();
  return to;
}

// The text as a row of tokens, of which one is chosen. `color(t)` is a color or null.
function strip({ pieces, color = () => null, name, under, choose }) {
  const buttons = pieces.map((text, t) => el("button", {
    type: "button", role: "radio", class: "token", title: name(t), "aria-label": name(t),
    style: painted(color(t)), onclick: () => choose(t, false),
  }, piece(text), under && el("small", {}, under(t))));
  const node = el("div", {
    class: under ? "strip with-numbers" : "strip", role: "radiogroup",
    "aria-label": "The text, token by token",
    onkeydown: (event) => {
      const to = moved(event, buttons.indexOf(document.activeElement), buttons.length - 1);
      if (buttons[to]) choose(to, true);
    },
  }, buttons.flatMap((button, t) => [button,
    !under && pieces[t].includes("⏎") && el("i", { class: "break" })]));
  const update = (t) => buttons.forEach((button, i) => {
    button.setAttribute("aria-checked", i === t);
    button.tabIndex = i === (t ?? 0) ? 0 : -1;
    if (i !== t) return;
    if (node.contains(document.activeElement)) button.focus();
    const top = button.offsetTop - node.offsetTop; // a long text scrolls in its box
    const end = top + button.offsetHeight - node.clientHeight;
    if (top < node.scrollTop || end > node.scrollTop) node.scrollTop = top - 40;
  });
  update(null);
  // Repaint when colors depend on what is chosen.
  const repaint = (paint, words) => buttons.forEach((button, t) => {
    Object.assign(button.style, painted(paint(t)));
    if (under) button.lastChild.textContent = words(t);
  });
  return { node, update, repaint };
}

// ── bars and tables ──
const filled = (kind, part) => el("span", { class: kind, "aria-hidden": "true" },
  el("i", { style: { width: `${Math.min(Math.max(part, 0), 100)}%` } }));
const bar = (part) => filled("bar", 100 * part);

// A bar to the left (below 0) or the right of the middle.
const sideBar = (part) =>
  filled(`side ${part < 0 ? "below" : "above"}`, Math.min(50 * Math.abs(part), 50));

// A table; the cells of a row that starts with {class} get it.
function table(heads, rows, attributes = {}) {
  const rowOf = (cells) => (cells instanceof Node ? cells : el("tr", { class: cells.class },
    (cells.cells ?? cells).map((cell) => el("td", {}, cell ?? ""))));
  return el("div", { class: `scroll ${attributes.class ?? ""}` },
    el("table", { "aria-label": attributes.name },
      el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))),
      el("tbody", {}, rows.map(rowOf))));
}

// The first rows of a long table, and a button that adds the others.
function longTable(name, heads, rows, first = 16) {
  const wrapper = el("div", {}, table(heads, rows.slice(0, first), { name }));
  if (rows.length > first) {
    wrapper.append(el("button", { type: "button", class: "more",
      onclick: () => wrapper.replaceChildren(table(heads, rows, { name })) },
    `Show all ${rows.length}`));
  }
  return wrapper;
}

// name: {title or tab: the view whose link is marked, heading() if it is not the title,
// render(root, args) → what to do with the words of each fragment}
const VIEWS = {};
