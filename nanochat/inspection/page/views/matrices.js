// Views 2 and 3: every array as a matrix, its numbers or their gradients, in their order.

const hasTokenRows = (name) => isWeight(name) && /^(wte\d*|lm_head)$/.test(name);
const vocabularyPiece = (id) =>
  (id < facts.vocabulary.length ? pieceOf(id) : "share of the counts");

// What an index means: the token, the head, the next token, the neuron.
function placeWords(name, [i, j, k]) {
  const token = `token ${i} ${readPiece(i)}`;
  if (isWeight(name)) {
    return `row ${i}${hasTokenRows(name) ? ` (${vocabularyPiece(i)})` : ""}, column ${j}`;
  }
  if (k !== undefined) return `head ${i}, query ${j} ${readPiece(j)}, key ${k} ${readPiece(k)}`;
  if (j === undefined) return `${token}, next ${targetPiece(i)}`;
  if (/^(logits|logits_uncapped|probabilities)$/.test(name)) {
    return `${token}, next ${vocabularyPiece(j)}`;
  }
  if (/attn\.(q|k|v|mixed)/.test(name)) return `${token}, column ${j}, head ${headOf(j)}`;
  return `${token}, ${/mlp\.(hidden|active)/.test(name) ? "neuron" : "column"} ${j}`;
}

// The heatmaps of an array, one per head, with a line that reads the cell out; `only`: of one row.
function matrixOf(name, asGradient, view, only = null) {
  const array = arrayOf(name, asGradient), { shape, numbers } = array;
  const most = largestOf(numbers) || 1, readout = el("output", { class: "readout" });
  const heads = shape.length === 3 ? range(0, shape[0]) : [null];
  const label = (i) => {
    if (!isWeight(name)) return readPiece(i);
    return hasTokenRows(name) && i < facts.vocabulary.length ? pieceOf(i) : String(i);
  };
  const maps = heads.map((head) => {
    const indexOf = (i, j) => {
      if (head !== null) return [head, i, j];
      return shape.length === 1 ? [j || i] : [only ?? i, j];
    };
    const map = heatmap({
      rows: only === null ? shape.at(shape.length === 3 ? 1 : 0) : 1,
      columns: shape.length === 1 ? 1 : shape.at(-1),
      scale: (x) => diverging(x / most), square: head === null ? null : 260,
      name: `${asGradient ? "Gradients of " : ""}${name}${head === null ? "" : `, head ${head}`}`,
      at: (i, j) => at(array, indexOf(i, j)), rowLabel: only === null && !head ? label : null,
      show: (i, j) => {
        const index = indexOf(i, j), x = full(at(array, index), array.narrow);
        readout.replaceChildren(piece(placeWords(name, index)), " ", el("b", {}, x));
        maps.filter((other) => other !== map).forEach((other) => other.hide());
      },
      pick: (i, j) => {
        const index = indexOf(i, j);
        if (view) history.replaceState(null, "", `#${pathOf(view, name, index)}`);
        go(pathOf(asGradient ? "gradient" : "number", name, index));
      },
    });
    return map;
  });
  const node = el("div", { class: "maps" }, maps.map((map, head) => (shape.length < 3 ? map.node
    : el("div", { class: "of-head" }, el("small", {}, `head ${head}`), map.node))));
  const select = (index, quiet) => {
    const [i, j = 0] = shape.length === 3 ? index.slice(1) : index;
    const map = maps[shape.length === 3 ? index[0] : 0];
    map.select(only === null ? i : 0, j, quiet);
    return map.grid;
  };
  return { node, readout, most, select };
}

function figure(name, asGradient, view) {
  const { node, readout, most, select } = matrixOf(name, asGradient, view);
  const op = operations.get(name), { shape } = arrayOf(name);
  const isWide = shape.length === 3 || shape.at(-1) > 32;
  const about = el("div", {},
    el("p", {}, el("h3", {}, name), el("span", { class: "about" }, facts.about[name].about)),
    el("p", {}, el("span", { class: "shape" }, shape.join(" × ")), op && lineOf(op)));
  return { select, node: el("figure", { class: isWide ? "array wide" : "array" },
    el("figcaption", {}, about, divergingLegend(most)), node, readout) };
}

const matrices = (view) => ({
  render(root, [chosen, ...index]) {
    const asGradient = view === "gradients", have = facts[asGradient ? "gradients" : "arrays"];
    if (!Object.keys(facts.gradients).length) return void fill(root, why(view));
    const groups = new Map(), figures = new Map();
    for (const name of [...operations.keys(), ...Object.keys(facts.weights)]) {
      if (!isWeight(name) && !own(have, name)) continue;
      const { group } = facts.about[name];
      figures.set(name, figure(name, asGradient, view));
      groups.set(group, [...(groups.get(group) ?? []), figures.get(name).node]);
    }
    const sections = [...groups].map(([group, nodes]) =>
      el("section", {}, el("h2", {}, group), el("div", { class: "figures-grid" }, nodes)));
    const jumps = [...groups.keys()].map((group, i) => el("button", { type: "button",
      onclick: () => sections[i].scrollIntoView({ block: "start" }) }, group));
    fill(root, el("p", { class: "jumps" }, jumps), sections);
    if (!figures.has(chosen)) return;
    const { node, select } = figures.get(chosen), place = index.map(Number);
    node.classList.add("chosen-place");
    requestAnimationFrame(() => {
      node.scrollIntoView({ block: "center" });
      if (exists(chosen, place)) select(place).focus({ preventScroll: true });
    });
  },
});

VIEWS.forward = matrices("forward");
VIEWS.gradients = matrices("gradients");
