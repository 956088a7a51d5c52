// View 6: the life of a recorded parameter: small line charts with one step marked in all.

const LIVES = { weight: "Weight", gradient: "Gradient", first_moment: "First moment", second_moment: "Second moment",
  update: "Update", rate: "Learning rate" };

function lineChart(title, xs, ys) {
  const [wide, high] = [320, 110], good = ys.filter(Number.isFinite);
  const low = Math.min(...good), top = Math.max(...good), span = top - low || Math.abs(top) || 1;
  const x = (i) => 4 + (wide - 8) * i / Math.max(xs.length - 1, 1), y = (v) => high - 6 - (high - 12) * (v - low) / span;
  const path = ys.map((v, i) => (Number.isFinite(v) ? `${Number.isFinite(ys[i - 1]) ? "L" : "M"}${x(i).toFixed(1)} ${y(v).toFixed(1)}` : "")).join("");
  const mark = el("svg:line", { y1: 0, y2: high, class: "mark" }), dot = el("svg:circle", { r: 3.5, class: "dot" });
  const value = el("b", { class: "n" }), svg = el("svg:svg", { viewBox: `0 0 ${wide} ${high}`, "aria-hidden": "true" },
    low < 0 && top > 0 && el("svg:line", { x1: 0, x2: wide, y1: y(0), y2: y(0), class: "zero" }), mark, el("svg:path", { d: path, class: "line" }), dot);
  return {
    svg, steps: xs.length,
    node: el("figure", { class: "chart" }, el("figcaption", {}, title, " ", value), svg, el("small", {}, `${rounded(low, 4)} … ${rounded(top, 4)}`)),
    show: (i) => {
      value.textContent = full(ys[i]);
      [["x1", x(i)], ["x2", x(i)]].forEach(([key, v]) => mark.setAttribute(key, v));
      dot.setAttribute("cx", x(i));
      dot.setAttribute("cy", Number.isFinite(ys[i]) ? y(ys[i]) : -9);
    },
  };
}

VIEWS.parameter = {
  title: "Over training",
  render(root, args) {
    fill(root, el("h1", {}, "A parameter’s life"));
    const { history: kept } = facts;
    if (!kept) return void fill(root, facts.left_out?.parameter ? why("parameter") : note(el("code", {}, "nanochat train --record …"), " keeps what happens to chosen parameters at every step; this run has no such record."));
    const [name, ...place] = args, found = kept.parameters.findIndex((p) => p.name === name && p.row === +place[0] && p.column === +place[1]);
    const p = Math.max(found, 0), pathTo = (q) => `parameter/${q.name}/${q.row}/${q.column}`, last = kept.steps.length - 1;
    const charts = Object.entries(LIVES).filter(([key]) => kept[key]).map(([key, title]) =>
      lineChart(title, kept.steps, key === "rate" ? kept.rate : kept[key][p]));
    const step1 = el("output", { class: "readout" });
    const slider = el("input", { type: "range", min: 0, max: last, value: last, "aria-label": "Step", oninput: () => show(+slider.value) });
    const show = (i) => {
      slider.value = i;
      step1.replaceChildren("step ", el("b", {}, String(kept.steps[i])));
      charts.forEach((chart) => chart.show(i));
    };
    charts.forEach(({ svg }) => svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      show(Math.min(Math.max(Math.round((event.clientX - box.left) / box.width * last), 0), last));
    }));
    const select = el("select", { "aria-label": "Parameter", onchange: () => go(pathTo(kept.parameters[+select.value])) },
      kept.parameters.map((q, i) => el("option", { value: i, selected: i === p ? "" : null }, numberName(q.name, [q.row, q.column]))));
    const { row, column } = kept.parameters[p];
    fill(root, el("p", { class: "lead" }, select, " ", exists(kept.parameters[p].name, [row, column])
      && link(pathOf("number", kept.parameters[p].name, [row, column]), "what it does on this text")),
    el("p", { class: "slide" }, slider, step1), el("div", { class: "charts" }, charts.map((chart) => chart.node)));
    show(last);
  },
};
