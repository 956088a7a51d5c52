// Elements, colors, heatmaps, strips of tokens, bars. Texts of the model go in as text nodes only.

const SVG = "http://www.w3.org/2000/svg";

// What is shown of a list of children: without those that are left out by a condition.
const present = (children) => children.flat().filter((child) => child !== null && child !== undefined && child !== false);
const fill = (node, ...children) => node.append(...present(children));

// Return an element. `on…` attributes are listeners.
function el(tag, attributes = {}, ...children) {
  const [name, space] = tag.startsWith("svg:") ? [tag.slice(4), SVG] : [tag, null];
  const node = space ? document.createElementNS(space, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
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

// A number that leads to its panel, the value's or the gradient's.
function numberLink({ name, index }, asGradient = false) {
  const array = arrayOf(name, asGradient), x = at(array, index);
  const title = `${asGradient ? "d loss / d " : ""}${numberName(name, index)} = ${shortest(x, array.narrow)}`;
  const path = pathOf(asGradient ? "gradient" : "number", name, index);
  return link(path, brief(x, array.narrow), { class: "n", title, "aria-label": title });
}

// ── colors ───────────────────────────────────────────────────────────────────────────────────────

// Lightness alone orders the colors, as in cividis, so the color-blind can read them.
const SURPRISE = {
  light: ["f5f2ea", "efe2b0", "d9c46f", "b0a06f", "7f7c76", "4f5a70", "203a66", "00224e"].map(channels),
  dark: ["202634", "123570", "3b496c", "575d6d", "707173", "8a8678", "a59c74", "c3b369", "e1cc55", "fee838"].map(channels),
};
const RAMPS = {
  light: { zero: "f4f2ee", below: "1b5aa6", above: "b9500a", middle: "7badd6", most: "0b3c74" },
  dark: { zero: "202226", below: "62aaf2", above: "f59b4c", middle: "2f6fb0", most: "d3e8ff" },
};
const darkSystem = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (state.theme === "auto" ? darkSystem.matches : state.theme === "dark");
const ramp = () => RAMPS[isDark() ? "dark" : "light"];

function channels(hex) {
  return [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

function between(stops, part) {
  const place = Math.min(Math.max(part, 0), 1) * (stops.length - 1);
  const i = Math.min(Math.floor(place), stops.length - 2);
  return stops[i].map((low, c) => Math.round(low + (stops[i + 1][c] - low) * (place - i)));
}

// Scales: a part of −1 … 1 or 0 … 1 to a color. What is small is close to the page's own color.
const diverging = (part) => between([ramp().zero, part < 0 ? ramp().below : ramp().above].map(channels), Math.abs(part));
const sequential = (part) => between([ramp().zero, ramp().middle, ramp().most].map(channels), part);
const surprise = (part) => between(SURPRISE[isDark() ? "dark" : "light"], part);
const css = (color) => `rgb(${color.join(" ")})`;

// Black or white, whichever is easier to read on a color: the contrast is at least 4.5.
function inkOn(color) {
  const [r, g, b] = color.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
}

const painted = (color) => ({ background: css(color), color: inkOn(color) });

function legend(scale, from, to, ticks) {
  const colors = range(0, 21).map((i) => css(scale(from + (to - from) * i / 20)));
  return el("div", { class: "legend", "aria-hidden": "true" },
    el("span", { class: "ramp", style: { background: `linear-gradient(90deg, ${colors.join(", ")})` } }),
    ticks.map(([part, text]) => el("span", { class: "tick", style: { left: `${100 * part}%` } }, text)));
}

// ── heatmaps ─────────────────────────────────────────────────────────────────────────────────────

const drawn = new WeakMap();
const drawVisible = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) drawn.get(entry.target)?.();
}, { rootMargin: "200px" });

// A matrix as colors. Its cells are reached by pointer and arrow keys; `pick` opens one.
//   at(i, j): a number, -Infinity is left out; name: what a reader hears; show(i, j): the readout
function heatmap({ rows, columns, at: cell, scale, name, rowLabel, columnLabel, square, show, pick }) {
  const high = square ? Math.max(Math.min(22, Math.floor(square / rows)), 2) : rows > 48 ? 9 : 18;
  const canvas = el("canvas");
  const cursor = el("div", { class: "cursor", hidden: "" });
  let place = [0, 0];
  const grid = el("div", {
    class: "grid", tabindex: "0", role: "application", "aria-roledescription": "matrix",
    "aria-label": `${name}, ${rows} rows, ${columns} columns; arrow keys move, Enter opens a number`,
    style: { height: `${rows * high}px`, minWidth: `${columns * (square ? high : 5)}px`, maxWidth: `${columns * (square ? high : 36)}px` },
  }, canvas, cursor);
  const select = (i, j, quiet = false) => {
    place = [i, j];
    cursor.hidden = false;
    Object.assign(cursor.style, {
      left: `${100 * j / columns}%`, width: `${100 / columns}%`, top: `${100 * i / rows}%`, height: `${100 / rows}%`,
    });
    if (!quiet) show(i, j);
  };
  const under = (event) => {
    const box = grid.getBoundingClientRect();
    const part = (x, count) => Math.min(Math.max(Math.floor(x * count), 0), count - 1);
    return [part((event.clientY - box.top) / box.height, rows), part((event.clientX - box.left) / box.width, columns)];
  };
  grid.addEventListener("pointermove", (event) => select(...under(event)));
  grid.addEventListener("focus", () => select(...place));
  grid.addEventListener("click", (event) => { select(...under(event)); pick(...place); });
  grid.addEventListener("keydown", (event) => {
    const [i, j] = place;
    const to = { ArrowUp: [i - 1, j], ArrowDown: [i + 1, j], ArrowLeft: [i, j - 1],
      ArrowRight: [i, j + 1], Home: [i, 0], End: [i, columns - 1] }[event.key];
    if (event.key === "Enter" || event.key === " ") pick(i, j);
    else if (to) select(Math.min(Math.max(to[0], 0), rows - 1), Math.min(Math.max(to[1], 0), columns - 1));
    else return;
    event.preventDefault();
  });
  drawn.set(grid, () => {
    drawVisible.unobserve(grid);
    const pixels = new ImageData(columns, rows);
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < columns; j++) {
        const x = cell(i, j);
        if (x !== -Infinity) pixels.data.set([...scale(x), 255], 4 * (i * columns + j));
      }
    }
    [canvas.width, canvas.height] = [columns, rows];
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  });
  drawVisible.observe(grid);
  const every = Math.ceil(13 / high);
  const labels = rowLabel && el("div", { class: "rows", style: { lineHeight: `${high * every}px` }, "aria-hidden": "true" },
    range(0, Math.floor(rows / every)).map((i) => el("bdi", {}, rowLabel(i * every))));
  const heads = columnLabel && high >= 13 && el("div", { class: "heads", "aria-hidden": "true", style: { width: `${columns * high}px` } }, range(0, columns).map((j) => el("bdi", { style: { width: `${high}px` } }, columnLabel(j))));
  const node = el("div", { class: "matrix" }, heads, labels, grid);
  return { node, select, grid };
}

// ── tokens ───────────────────────────────────────────────────────────────────────────────────────

// The text as a row of tokens, of which one is chosen. `color(t)` is a color or null.
function strip({ pieces, color, name, under, choose, chosen }) {
  const buttons = pieces.map((text, t) => {
    const paint = color(t);
    return el("button", {
      type: "button", role: "radio", class: "token", title: name(t), "aria-label": name(t),
      style: paint ? painted(paint) : {}, onclick: () => choose(t, false),
    }, piece(text), under && el("small", {}, under(t)));
  });
  const lines = buttons.flatMap((button, t) => (!under && pieces[t].includes("⏎") ? [button, el("i", { class: "break" })] : [button]));
  const node = el("div", { class: under ? "strip with-numbers" : "strip", role: "radiogroup", "aria-label": "The text, token by token" }, lines);
  const update = (t) => buttons.forEach((button, i) => {
    button.setAttribute("aria-checked", i === t);
    button.tabIndex = i === t || (t === null && i === 0) ? 0 : -1;
    if (i !== t) return;
    if (node.contains(document.activeElement)) button.focus();
    const top = button.offsetTop - node.offsetTop; // a long text scrolls in its box
    if (top < node.scrollTop || top + button.offsetHeight > node.scrollTop + node.clientHeight) node.scrollTop = top - 40;
  });
  node.addEventListener("keydown", (event) => {
    const now = buttons.indexOf(document.activeElement), last = buttons.length - 1;
    const to = { ArrowLeft: now - 1, ArrowUp: now - 1, ArrowRight: now + 1, ArrowDown: now + 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (to >= 0 && to <= last) choose(to, true);
  });
  update(chosen);
  // Repaint when colors depend on what is chosen.
  const repaint = (paint, words) => buttons.forEach((button, t) => {
    Object.assign(button.style, paint(t) ? painted(paint(t)) : { background: "", color: "" });
    if (under) button.lastChild.textContent = words(t);
  });
  return { node, update, repaint };
}

const bar = (part, color = "") => el("span", { class: `bar ${color}`, "aria-hidden": "true" }, el("i", { style: { width: `${100 * Math.min(Math.max(part, 0), 1)}%` } }));

// A bar to the left (below 0) or the right of the middle.
const sideBar = (part) => el("span", { class: `side ${part < 0 ? "below" : "above"}`, "aria-hidden": "true" }, el("i", { style: { width: `${50 * Math.min(Math.abs(part), 1)}%` } }));

// A table; the cells of a row that starts with {class} get it.
function table(heads, rows, attributes = {}) {
  return el("div", { class: `scroll ${attributes.class ?? ""}` },
    el("table", { "aria-label": attributes.name }, el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))),
      el("tbody", {}, rows.map((cells) => (cells instanceof Node ? cells
        : el("tr", { class: cells.class }, (cells.cells ?? cells).map((cell) => el("td", {}, cell ?? ""))))))));
}

// The first rows of a long table, and a button that adds the others.
function longTable(heads, rows, first = 16, attributes = {}) {
  const node = table(heads, rows.slice(0, first), attributes);
  if (rows.length <= first) return node;
  const more = el("button", { type: "button", class: "more", onclick: () => wrapper.replaceChildren(table(heads, rows, attributes)) }, `Show all ${rows.length}`);
  const wrapper = el("div", {}, node, more);
  return wrapper;
}

const note = (...text) => el("p", { class: "note" }, ...text);
const why = (view) => note("Left out: ", facts.left_out?.[view] ?? "the model or the text is too large", ".");

const VIEWS = {}; // name: {title, render(root, args) → what to do when only the fragment changes}
