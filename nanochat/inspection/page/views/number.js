// The panel of one number: its formula and terms, where its gradient comes from and where it goes.

// The sum that the page computed, next to the engine's number.
function compared(words, value, engine, narrow) {
  const difference = value === engine ? 0 : value - engine;
  const facts = [[words, full(value)], ["the engine’s number", full(engine, narrow)],
    ["difference", difference === 0 ? "0" : rounded(difference, 3)]];
  return el("dl", { class: "compared" }, facts.flatMap(([term, text]) =>
    [el("dt", {}, term), el("dd", { class: "n" }, text)]));
}

const operandCell = (one) => (one.name ? numberLink(one) : digits(brief(one.value)));
const localCell = ({ value, of, text }) => el("span", {}, operandCell(of ?? { value }),
  text && el("small", {}, ` ${text}`));
const bySize = (terms) => [...terms].sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
const gradientLink = ({ name, index }) =>
  link(pathOf("gradient", name, index), numberName(name, index), { class: "n" });
const formulaLine = (formula, result) => el("p", { class: "formula" },
  formula.replace(/, (?=[^[\]]*\])/g, ",\u00a0"), el("b", {}, ` = ${result}`));

function forwardSection(name, index, title = ["How it is computed"]) {
  const { steps, value, engine } = forward(name, index), op = operations.get(name);
  const section = el("section", { class: "how" }, el("h2", {}, ...title));
  if (isWeight(name)) {
    fill(section, el("p", {}, "A weight: training has set it. ", historyOf(name, ...index)
      && link(pathOf("parameter", name, index), "See its parameter history.")));
  } else if (!steps.length) {
    fill(section, op?.kind === "own" && whole ? el("p", {}, "Computed by ", lineOf(op),
      ", whose formula this page does not know.") : why("forward"));
  }
  for (const { formula, columns, rows, value: result } of steps) {
    fill(section, formulaLine(formula, brief(result)), rows.length && longTable(formula, columns,
      rows.map((one) => [String(one.label), ...one.operands.map(operandCell),
        digits(brief(one.value))])));
  }
  const { narrow } = arrayOf(name);
  if (steps.length) fill(section, compared("computed from the terms", value, engine, narrow));
  return section;
}

function gradientSection(name, index) {
  const section = el("section", { class: "how" }, el("h2", {}, "How it moves the loss"));
  const array = arrayOf(name, true);
  if (!array) return fill(section, why("gradients")), section;
  const { terms, value, engine } = gradient(name, index), passed = bySize(passedOn(name, index));
  const nowhere = isWeight(name) ? "No token of this text uses it."
    : "It goes into no other number.";
  fill(section, formulaLine(
    "d loss / d number = Σ over the numbers it goes into: local derivative · their gradient",
    brief(engine, array.narrow)),
  !terms.length ? el("p", {}, nowhere) : longTable("Where the gradient comes from",
    ["goes into", "local derivative", "their gradient", "product"], bySize(terms).map((term) => [
      term.name ? gradientLink(term) : term.file ?? "the mean loss", localCell(term.local),
      term.name ? numberLink(term, true) : "1", digits(brief(term.value))]), 12),
  compared("sum of the terms", value, engine, array.narrow));
  if (passed.length) {
    fill(section, el("h3", {}, "What it passes on to its operands"),
      longTable("Where the gradient goes",
        ["operand", "local derivative", "passed on", "of its gradient"], passed.map((one) => [
          gradientLink(one), localCell(one.local), digits(brief(one.value)),
          numberLink(one, true)]), 8));
  }
  return section;
}

const numberPanel = (tab, asGradient) => ({
  tab,
  render(root, [name = "", ...words]) {
    const index = words.map(Number);
    if (!exists(name, index)) {
      return void fill(root, el("h1", {}, "No such number"), !whole ? why("forward")
        : note("No number has this name and place. ", link("forward", "See all matrices.")));
    }
    const op = operations.get(name), sections = [forwardSection, gradientSection];
    const shownNumber = (term, array, isNow) => array && el("div", { class: isNow ? "now" : "" },
      el("dt", {}, term), el("dd", { class: "n big" }, full(at(array, index), array.narrow)));
    fill(root, el("p", { class: "crumbs" }, link(pathOf(tab, name, index), facts.views[tab].title),
        ` › ${facts.about[name].group} › ${facts.about[name].about}`),
      el("h1", { class: "name" }, numberName(name, index)),
      lead(piece(placeWords(name, index)), " ", op ? lineOf(op) : ""),
      el("dl", { class: "pair" }, shownNumber("value", arrayOf(name), !asGradient),
        shownNumber("d loss / d number", arrayOf(name, true), asGradient)),
      around(name, index, asGradient && arrayOf(name, true) !== null),
      el("div", { class: `columns ${asGradient ? "wide-first" : "wide-last"}` },
        (asGradient ? sections.reverse() : sections).map((section) => section(name, index))));
  },
});

// The row of the matrix that the number is in: its neighbors are one arrow key away.
function around(name, index, asGradient) {
  const isRow = index.length === 2, only = isRow ? index[0] : null;
  const { node, select, readout } = matrixOf(name, asGradient, null, only);
  select(index, true);
  return el("details", { class: "around", open: isRow && "" },
    el("summary", {}, isRow ? "Its row" : "Its matrix"), node, readout);
}

VIEWS.number = numberPanel("forward", false);
VIEWS.gradient = numberPanel("gradients", true);
