// The panel of one number: its formula and terms, where its gradient comes from and where it goes.

// The sum that the page computed, next to the engine's number.
function compared(words, value, engine, narrow) {
  const difference = value === engine ? 0 : value - engine;
  return el("dl", { class: "compared" },
    el("dt", {}, words), el("dd", { class: "n" }, full(value)),
    el("dt", {}, "the engine’s number"), el("dd", { class: "n" }, full(engine, narrow)),
    el("dt", {}, "difference"), el("dd", { class: "n" }, difference === 0 ? "0" : rounded(difference, 3)));
}

function operandCell(operand) {
  return operand.name ? numberLink(operand) : el("span", { class: "n" }, brief(operand.value));
}

function localCell({ value, of, text }) {
  const shownText = text && el("small", {}, ` ${text}`);
  return el("span", {}, of ? numberLink(of) : el("span", { class: "n" }, brief(value)), shownText);
}

function forwardSection(name, index) {
  const section = el("section", { class: "how" }, el("h2", {}, "How it is computed"));
  const { steps, value, engine } = forward(name, index), { narrow } = arrayOf(name);
  if (isWeight(name)) fill(section, el("p", {}, "A weight: training has set it. ",
    lifeOf(name, ...index) && link(`parameter/${name}/${index.join("/")}`, "See its life over training.")));
  else if (!steps.length && operations.get(name)?.kind === "own" && whole) {
    fill(section, el("p", {}, "Computed by ", el("code", { class: "line" }, operations.get(name).line.join(":")), ", whose formula this page does not know."));
  } else if (!steps.length) fill(section, why("forward"));
  for (const { formula, columns, rows, value: result } of steps) {
    fill(section, el("p", { class: "formula" }, formula.replace(/, (?=[^[\]]*\])/g, ",\u00a0"), el("b", {}, ` = ${brief(result)}`)));
    if (rows.length) {
      fill(section, longTable(columns, rows.map((one) => [String(one.label), ...one.operands.map(operandCell),
        el("span", { class: "n" }, brief(one.value))]), 16, { name: formula }));
    }
  }
  if (steps.length) fill(section, compared("computed from the terms", value, engine, narrow));
  return section;
}

function gradientSection(name, index) {
  const section = el("section", { class: "how" }, el("h2", {}, "How it moves the loss"));
  const array = arrayOf(name, true);
  if (!array) return fill(section, why("gradients")), section;
  const { terms, value, engine } = gradient(name, index);
  fill(section, el("p", { class: "formula" }, "d loss / d number = Σ over the numbers it goes into: local derivative · their gradient",
    el("b", {}, ` = ${brief(engine, array.narrow)}`)));
  const sorted = [...terms].sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  if (terms.length) {
    fill(section, longTable(["goes into", "local derivative", "their gradient", "product"], sorted.map((term) => [
      term.name ? link(pathOf("gradient", term.name, term.index), numberName(term.name, term.index), { class: "n" }) : term.file ?? "the mean loss",
      localCell(term.local), term.name ? numberLink(term, true) : "1", el("span", { class: "n" }, brief(term.value))]),
    12, { name: "Where the gradient comes from" }));
  } else fill(section, el("p", {}, isWeight(name) ? "No token of this text uses it." : "It goes into no other number."));
  fill(section, compared("sum of the terms", value, engine, array.narrow));
  const passed = passedOn(name, index).sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  if (passed.length) {
    fill(section, el("h3", {}, "What it passes on to its operands"),
      longTable(["operand", "local derivative", "passed on", "of its gradient"], passed.map((one) => [
        link(pathOf("gradient", one.name, one.index), numberName(one.name, one.index), { class: "n" }), localCell(one.local),
        el("span", { class: "n" }, brief(one.value)), numberLink(one, true)]), 8, { name: "Where the gradient goes" }));
  }
  return section;
}

function numberPanel(asGradient) {
  return (root, args) => {
    const [name, ...words] = args, index = words.map(Number);
    if (!arrayOf(name ?? "") || !exists(name, index)) {
      return void fill(root, el("h1", {}, "No such number"), Object.keys(facts.weights).length
        ? note("This page has no number of this name and place. ", link("forward", "See all matrices.")) : why("forward"));
    }
    const array = arrayOf(name), gradients = arrayOf(name, true), op = operations.get(name);
    const view = asGradient ? "gradient" : "number", strip1 = shapeRow(name, index, asGradient, view);
    fill(root,
      el("p", { class: "crumbs" }, link(pathOf(asGradient ? "gradients" : "forward", name, index), asGradient ? "Gradients" : "Forward"), ` › ${groupOf(name)} › ${aboutOf(name)}`),
      el("h1", { class: "name" }, numberName(name, index)),
      el("p", { class: "lead" }, piece(placeWords(name, index)), " ", op && el("code", { class: "line" }, op.line.join(":"))),
      el("dl", { class: "pair" },
        el("div", { class: asGradient ? "" : "now" }, el("dt", {}, "value"), el("dd", { class: "n big" }, full(at(array, index), array.narrow))),
        gradients && el("div", { class: asGradient ? "now" : "" }, el("dt", {}, "d loss / d number"), el("dd", { class: "n big" }, full(at(gradients, index), gradients.narrow)))),
      strip1.node,
      el("div", { class: `columns ${asGradient ? "wide-first" : "wide-last"}` }, asGradient ? [gradientSection(name, index), forwardSection(name, index)]
        : [forwardSection(name, index), gradientSection(name, index)]));
  };
}

// The row of the matrix that the number is in: its neighbors are one arrow key away.
function shapeRow(name, index, asGradient) {
  const { node, select, readout } = index.length === 3 || index.length === 1
    ? matrixOf(name, asGradient, null) : matrixOf(name, asGradient, null, index[0]);
  select(index, true);
  return { node: el("details", { class: "around", open: index.length === 2 ? "" : null },
    el("summary", {}, index.length === 2 ? "Its row" : "Its matrix"), node, readout) };
}

VIEWS.number = { tab: "forward", render: numberPanel(false) };
VIEWS.gradient = { tab: "gradients", render: numberPanel(true) };
