// View 6: the history of a recorded parameter: small line charts with one step marked in all.
// The first table has chosen parameters; the second, if there is one, all parameters at some steps.

const RECORDED = { weight: "Weight", gradient: "Gradient", first_moment: "First moment",
  second_moment: "Second moment", update: "Update", rate: "Learning rate" };
const counted = (count) => count.toLocaleString("en");

// A chart over the steps, which may be at any distances: its axes have the first, a middle and the
// last step, and the smallest and the largest value.
function lineChart(title, steps, ys, narrow) {
  const [wide, high] = [320, 110], good = ys.filter(Number.isFinite), last = steps.length - 1;
  const low = Math.min(...good), top = Math.max(...good), span = top - low || Math.abs(top) || 1;
  const part = (i) => (steps[i] - steps[0]) / (steps[last] - steps[0] || 1);
  const x = (i) => wide * part(i), y = (v) => high - 6 - (high - 12) * (v - low) / span;
  const path = ys.map((v, i) => (!Number.isFinite(v) ? ""
    : `${Number.isFinite(ys[i - 1]) ? "L" : "M"}${x(i).toFixed(1)} ${y(v).toFixed(1)}`)).join("");
  const mark = el("svg:line", { y1: 0, y2: high, class: "mark" });
  const dot = el("svg:circle", { r: 3.5, class: "dot" }), value = el("b", { class: "n" });
  const svg = el("svg:svg", { viewBox: `0 0 ${wide} ${high}`, "aria-hidden": "true" },
    low < 0 && top > 0 && el("svg:line", { x1: 0, x2: wide, y1: y(0), y2: y(0), class: "zero" }),
    mark, el("svg:path", { d: path, class: "line" }), dot);
  const ticks = [...new Set([0, last >> 1, last])].map((i) =>
    [part(i), `${i ? "" : "step "}${counted(steps[i])}`]);
  const values = [...new Set([top, low])].map((v) => el("span", {}, rounded(v, 3)));
  return {
    node: el("figure", { class: "chart" }, el("figcaption", {}, title, " ", value),
      el("div", { class: "values" }, values), svg, el("div", { class: "steps" }, ticksOf(ticks))),
    svg,
    nearest: (place) => steps.reduce((best, _, i) =>
      (Math.abs(part(i) - place) < Math.abs(part(best) - place) ? i : best), 0),
    show: (i) => {
      value.textContent = brief(ys[i], narrow);
      for (const key of ["x1", "x2"]) mark.setAttribute(key, x(i));
      dot.setAttribute("cx", x(i));
      dot.setAttribute("cy", Number.isFinite(ys[i]) ? y(ys[i]) : -9);
    },
  };
}

// Return the table that has a parameter, and its numbers by the keys of RECORDED; null without any.
function historyOf(name, row, column) {
  const { tables = [], matrices = {} } = facts.history ?? {};
  const { first, rows, columns, group } = own(matrices, name) ?? {};
  const inside = row >= 0 && row < rows && column >= 0 && column < columns;
  const index = inside ? first + row * columns + column : -1;
  const found = tables.find(({ indices }) => (indices ? indices.includes(index) : index >= 0));
  if (!found || !Number.isInteger(index)) return null;
  const i = found.indices ? found.indices.indexOf(index) : index;
  const numbers = Object.keys(RECORDED).filter((key) => found[key]).map((key) =>
    [key, found.steps.map((_, s) => at(unpacked(found[key]), [s, i]))]);
  return { table: found, rate: found.rates[group], ...Object.fromEntries(numbers) };
}

VIEWS.parameter = {
  render(root, args) {
    if (!facts.history) {
      return void fill(root, note(el("code", {}, "nanochat train --record …"),
        " keeps the history of chosen parameters at every step; this run has recorded none."));
    }
    const asked = { name: args[0], row: +args[1], column: +args[2] };
    const known = historyOf(asked.name, asked.row, asked.column);
    const chosen = known ? asked : facts.history.chosen[0], { name, row, column } = chosen;
    const one = known ?? historyOf(name, row, column), { steps, indices } = one.table;
    const pathTo = (place) => `parameter/${place.name}/${place.row}/${place.column}`;
    const choices = facts.history.chosen.filter((place) => pathTo(place) !== pathTo(chosen));
    const charts = Object.entries(RECORDED).filter(([key]) => one[key]?.some(Number.isFinite))
      .map(([key, title]) => lineChart(title, steps, one[key], !indices && key !== "rate"));
    const readout = el("output", { class: "readout" }), last = steps.length - 1;
    const slider = el("input", { type: "range", min: 0, max: last, "aria-label": "Step",
      oninput: () => show(+slider.value) });
    const show = (i) => {
      slider.value = i;
      readout.replaceChildren("step ", el("b", {}, counted(steps[i])));
      charts.forEach((chart) => chart.show(i));
    };
    charts.forEach(({ svg, nearest }) => svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      show(nearest((event.clientX - box.left) / box.width));
    }));
    const select = el("select", { "aria-label": "Parameter", onchange: () => go(select.value) },
      [chosen, ...choices].map((place) => el("option", { value: pathTo(place) },
        numberName(place.name, [place.row, place.column]))));
    const toNumber = exists(name, [row, column])
      && link(pathOf("number", name, [row, column]), "what it does on this text");
    fill(root, lead(select, " ", toNumber || ""), el("p", { class: "slide" }, slider, readout),
      el("div", { class: "charts" }, charts.map((chart) => chart.node)),
      one.table.notes.map((text) => note(text)));
    show(last);
  },
};
