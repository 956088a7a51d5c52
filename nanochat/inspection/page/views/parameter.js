// View 6: the life of a recorded parameter: small line charts with one step marked in all.
// The first table has chosen parameters; the second, if there is one, all parameters at some steps.

const LIVES = { weight: "Weight", gradient: "Gradient", first_moment: "First moment", second_moment: "Second moment",
  update: "Update", rate: "Learning rate" };

function lineChart(title, xs, ys, narrow) {
  const [wide, high] = [320, 110], good = ys.filter(Number.isFinite);
  const low = Math.min(...good), top = Math.max(...good), span = top - low || Math.abs(top) || 1;
  const x = (i) => 4 + (wide - 8) * i / Math.max(xs.length - 1, 1), y = (v) => high - 6 - (high - 12) * (v - low) / span;
  const path = ys.map((v, i) => (Number.isFinite(v) ? `${Number.isFinite(ys[i - 1]) ? "L" : "M"}${x(i).toFixed(1)} ${y(v).toFixed(1)}` : "")).join("");
  const mark = el("svg:line", { y1: 0, y2: high, class: "mark" }), dot = el("svg:circle", { r: 3.5, class: "dot" });
  const value = el("b", { class: "n" }), svg = el("svg:svg", { viewBox: `0 0 ${wide} ${high}`, "aria-hidden": "true" },
    low < 0 && top > 0 && el("svg:line", { x1: 0, x2: wide, y1: y(0), y2: y(0), class: "zero" }), mark, el("svg:path", { d: path, class: "line" }), dot);
  return {
    svg, node: el("figure", { class: "chart" }, el("figcaption", {}, title, " ", value), svg, el("small", {}, `${rounded(low, 4)} … ${rounded(top, 4)}`)),
    show: (i) => {
      value.textContent = brief(ys[i], narrow);
      [["x1", x(i)], ["x2", x(i)]].forEach(([key, v]) => mark.setAttribute(key, v));
      dot.setAttribute("cx", x(i));
      dot.setAttribute("cy", Number.isFinite(ys[i]) ? y(ys[i]) : -9);
    },
  };
}

// Return the steps of a parameter's table and a list of numbers per key of LIVES; null without any.
function lifeOf(name, row, column) {
  const { tables = [], matrices = {} } = facts.history ?? {}, { first, rows, columns, group } = own(matrices, name) ?? {};
  const inside = [row, column].every((k) => Number.isInteger(k) && k >= 0) && row < rows && column < columns;
  const index = inside ? first + row * columns + column : -1;
  const table = tables.find(({ indices }) => (indices ? indices.includes(index) : index >= 0));
  if (!table) return null;
  const i = table.indices ? table.indices.indexOf(index) : index, numbers = (packed) => table.steps.map((_, s) => at(unpacked(packed), [s, i]));
  return Object.fromEntries([["steps", table.steps], ["narrow", !table.indices], ["rate", table.rates[group]], ...Object.keys(LIVES).filter((key) => table[key]).map((key) => [key, numbers(table[key])])]);
}

VIEWS.parameter = {
  title: "Over training",
  render(root, args) {
    fill(root, el("h1", {}, "A parameter’s life"));
    if (!facts.history) return void fill(root, note(el("code", {}, "nanochat train --record …"), " keeps what happens to chosen parameters at every step; this run has no such record."));
    const asked = { name: args[0], row: +args[1], column: +args[2] }, known = lifeOf(args[0], asked.row, asked.column);
    const shown = known ? asked : facts.history.chosen[0], { name, row, column } = shown, life = known ?? lifeOf(name, row, column);
    const pathTo = (q) => `parameter/${q.name}/${q.row}/${q.column}`, last = life.steps.length - 1, choices = facts.history.chosen.filter((q) => pathTo(q) !== pathTo(shown));
    const charts = Object.entries(LIVES).filter(([key]) => life[key]?.some(Number.isFinite)).map(([key, title]) => lineChart(title, life.steps, life[key], life.narrow && key !== "rate"));
    const step1 = el("output", { class: "readout" });
    const slider = el("input", { type: "range", min: 0, max: last, value: last, "aria-label": "Step", oninput: () => show(+slider.value) });
    const show = (i) => {
      slider.value = i;
      step1.replaceChildren("step ", el("b", {}, String(life.steps[i])));
      charts.forEach((chart) => chart.show(i));
    };
    charts.forEach(({ svg }) => svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      show(Math.min(Math.max(Math.round((event.clientX - box.left) / box.width * last), 0), last));
    }));
    const select = el("select", { "aria-label": "Parameter", onchange: () => go(select.value) }, [shown, ...choices].map((q) => el("option", { value: pathTo(q) }, numberName(q.name, [q.row, q.column]))));
    fill(root, el("p", { class: "lead" }, select, " ", exists(name, [row, column]) && link(pathOf("number", name, [row, column]), "what it does on this text")),
    el("p", { class: "slide" }, slider, step1), el("div", { class: "charts" }, charts.map((chart) => chart.node)));
    fill(root, life.narrow && note("Kept at some steps and rounded to float32. The run also has its moments and updates: ", el("code", {}, "nanochat.load(run).history.life(…)")));
    show(last);
  },
};
