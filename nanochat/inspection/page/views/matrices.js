// Views 2 and 3: every array as a matrix, its numbers or their gradients, in the order they are made.

const ABOUT = {
  "embed.token": "Embedding of each token", "embed.position": "Embedding of each position",
  "embed.tables": "Embeddings of the token, earlier tokens and n-grams, added",
  "embed.sum": "Token and position, added", "embed.norm": "Embedding, normalized",
  "attn.norm": "Residual stream, normalized", "attn.q": "Queries", "attn.k": "Keys", "attn.v": "Values",
  "attn.q_rotated": "Queries, turned by their position", "attn.k_rotated": "Keys, turned by their position",
  "attn.q_norm": "Queries, normalized head by head", "attn.k_norm": "Keys, normalized head by head",
  "attn.scores": "Scores: query · key / √head_dim", "attn.weights": "Attention weights", "attn.mixed": "Mixed values",
  "attn.out": "What attention adds", "attn.residual": "Residual stream after attention",
  "mlp.norm": "Residual stream, normalized", "mlp.hidden": "MLP before its activation",
  "mlp.active": "MLP after its activation", "mlp.out": "What the MLP adds", "mlp.residual": "Residual stream after the MLP",
  logits_uncapped: "Logits before the cap", logits: "Logits", probabilities: "Probabilities of the network",
  counts_share: "Share of the counts", losses: "Loss of each target, in nats",
};
const shortName = (name) => name.replace(/^layer\d+\./, "");
const aboutOf = (name) => ABOUT[shortName(name)] ?? (isWeight(name) ? "Weight matrix" : "");
const groupOf = (name) => {
  const [, layer, part] = /^layer(\d+)\.(attn|mlp)/.exec(name) ?? [];
  if (isWeight(name)) return "Weights";
  if (part) return `Layer ${layer}: ${part === "attn" ? "attention" : "MLP"}`;
  return name.startsWith("embed") ? "Embedding" : "Output";
};
const vocabularyWide = (name) => /^(logits|logits_uncapped|probabilities)$/.test(name);

// What an index means: the token, the head, the next token, the neuron.
function placeWords(name, index) {
  if (isWeight(name)) {
    const id = index[0], row = /^(wte\d*|lm_head)$/.test(name)
      ? ` (${id < facts.vocabulary.length ? pieceOf(id) : "share of the counts"})` : "";
    return `row ${id}${row}, column ${index[1]}`;
  }
  if (index.length === 3) return `head ${index[0]}, query ${index[1]} ${readPiece(index[1])}, key ${index[2]} ${readPiece(index[2])}`;
  const token = `token ${index[0]} ${readPiece(index[0])}`;
  if (index.length === 1) return `${token}, next ${targetPiece(index[0])}`;
  if (vocabularyWide(name)) return `${token}, next ${index[1] < facts.vocabulary.length ? pieceOf(index[1]) : "share of the counts"}`;
  if (/attn\.(q|k|v|mixed)/.test(name)) return `${token}, column ${index[1]}, head ${headOf(index[1])}`;
  return `${token}, ${/mlp\.(hidden|active)/.test(name) ? "neuron" : "column"} ${index[1]}`;
}

// The heatmaps of an array, one per head, with a line that reads the cell out.
function matrixOf(name, asGradient, view, only = null) {
  const array = arrayOf(name, asGradient), { shape, numbers } = array, most = largestOf(numbers) || 1;
  const heads = shape.length === 3 ? range(0, shape[0]) : [null], columns = shape.length === 1 ? 1 : shape.at(-1);
  const readout = el("output", { class: "readout" });
  const label = isWeight(name)
    ? (i) => (/^(wte\d*|lm_head)$/.test(name) && i < facts.vocabulary.length ? pieceOf(i) : String(i)) : readPiece;
  const maps = heads.map((head) => {
    const indexOf = (i, j) => (head !== null ? [head, i, j] : shape.length === 1 ? [j || i] : [only ?? i, j]);
    const map = heatmap({
      rows: only === null ? shape.at(shape.length === 3 ? 1 : 0) : 1, columns, scale: (x) => diverging(x / most),
      square: head === null ? null : 260, name: `${asGradient ? "Gradients of " : ""}${name}${head === null ? "" : `, head ${head}`}`,
      at: (i, j) => numbers[offsetOf(array, indexOf(i, j))], rowLabel: only === null && (head === null || head === 0) ? label : null,
      show: (i, j) => {
        const index = indexOf(i, j);
        readout.replaceChildren(piece(placeWords(name, index)), " ", el("b", {}, full(at(array, index), array.narrow)));
        maps.forEach((other) => { if (other.map !== map) other.map.grid.querySelector(".cursor").hidden = true; });
      },
      pick: (i, j) => {
        if (view) history.replaceState(null, "", `#${pathOf(view, name, indexOf(i, j))}`);
        go(pathOf(asGradient ? "gradient" : "number", name, indexOf(i, j)));
      },
    });
    return { map, head };
  });
  const node = el("div", { class: "maps" }, maps.map(({ map, head }) => (head === null ? map.node
    : el("div", { class: "of-head" }, el("small", {}, `head ${head}`), map.node))));
  const select = (index, quiet) => {
    const { map } = maps[index.length === 3 ? index[0] : 0], [i, j] = index.length === 3 ? index.slice(1) : index;
    map.select(only === null ? i : 0, j ?? 0, quiet);
    return map.grid;
  };
  return { node, readout, most, select };
}

function figure(name, asGradient, view) {
  const op = operations.get(name), { node, readout, most, select } = matrixOf(name, asGradient, view);
  const { shape } = arrayOf(name), columns = shape.at(-1);
  return {
    select,
    node: el("figure", { class: shape.length === 3 || columns > 32 ? "array wide" : "array" },
      el("figcaption", {},
        el("div", {}, el("p", {}, el("h3", {}, name), el("span", { class: "about" }, aboutOf(name))),
          el("p", {}, el("span", { class: "shape" }, shape.join(" × ")), op && el("code", { class: "line" }, op.line.join(":")))),
        legend(diverging, -1, 1, [[0, `−${rounded(most, 3)}`], [0.5, "0"], [1, rounded(most, 3)]])),
      node, readout),
  };
}

function matrices(asGradient) {
  return (root, args) => {
    const view = asGradient ? "gradients" : "forward", have = asGradient ? facts.gradients : facts.arrays;
    const names = [...operations.keys(), ...Object.keys(facts.weights)].filter((name) => own(facts.weights, name) || own(have, name));
    fill(root, el("h1", {}, asGradient ? "Gradients" : "Forward"));
    if (!Object.keys(facts.gradients).length) return void fill(root, why(view));
    fill(root, el("p", { class: "lead" }, asGradient
      ? "What a small increase of each number would do to the mean loss. Orange raises it, blue lowers it. Open a number to see where its gradient comes from."
      : "Every number of the model on this text, in the order they are computed. Open a number to see its formula and operands."));
    const groups = new Map(), figures = new Map();
    for (const name of names) groups.set(groupOf(name), [...(groups.get(groupOf(name)) ?? []), name]);
    const sections = [...groups].map(([title, inside]) => el("section", {}, el("h2", {}, title), el("div", { class: "figures-grid" },
      inside.map((name) => {
        figures.set(name, figure(name, asGradient, view));
        return figures.get(name).node;
      }))));
    fill(root, el("p", { class: "jumps" }, sections.map((section) => el("button", {
      type: "button", onclick: () => section.scrollIntoView({ block: "start" }),
    }, section.firstChild.textContent))), ...sections);
    const [name, ...index] = args;
    if (figures.has(name)) {
      const { node, select } = figures.get(name), place = index.map(Number);
      node.classList.add("chosen-place");
      requestAnimationFrame(() => {
        node.scrollIntoView({ block: "center" });
        if (exists(name, place)) select(place).focus({ preventScroll: true });
      });
    }
  };
}

VIEWS.forward = { title: "Forward", render: matrices(false) };
VIEWS.gradients = { title: "Gradients", render: matrices(true) };
