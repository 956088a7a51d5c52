// View 4: the pattern of every head of a layer; for one query and key, the score term by term.

VIEWS.attention = {
  title: "Attention",
  render(root, args) {
    fill(root, el("h1", {}, "Attention"));
    if (!attentionLayers) return void fill(root, note("This model has no attention: its next token depends on the last one alone."));
    const layer = numbered(args, "layer", attentionLayers, 0), name = `layer${layer}.attn.weights`;
    const weights = arrayOf(name), op = operations.get(`layer${layer}.attn.scores`);
    if (!weights) return void fill(root, why("attention"));
    const heads = weights.shape[0], pathTo = (head, q, k) => `attention/layer${layer}/head${head}/token${q}${k === null ? "" : `/key${k}`}`;
    let now = {};
    const maps = range(0, heads).map((head) => heatmap({
      rows: length, columns: length, square: length > 32 ? Math.min(420, innerWidth - 90) : 230, scale: (w) => sequential(Math.sqrt(w)), name: `Weights of head ${head}`,
      at: (q, k) => (k > q ? -Infinity : at(weights, [head, q, k])), rowLabel: head === 0 ? readPiece : null, columnLabel: readPiece,
      show: (q, k) => readout.replaceChildren(`head ${head}: `, piece(readPiece(q)), " sees ", piece(readPiece(k)), " with weight ",
        el("b", {}, full(at(weights, [head, q, k]), weights.narrow))),
      pick: (q, k) => go(pathTo(head, q, Math.min(k, q))),
    }));
    const readout = el("output", { class: "readout" });
    const frames = maps.map((map, head) => el("div", { class: "of-head" }, link(pathTo(head, length - 1, null), `head ${head}`), map.node));
    const text = strip({
      pieces: range(0, length).map(readPiece), chosen: 0, color: () => null, under: length <= 64 ? () => " " : null,
      name: (t) => `query of token ${t}, ${readPiece(t)}`, choose: (t, replace) => go(pathTo(now.head, t, null), replace),
    });
    const panel = el("section", { class: "panel columns" }), title = el("h2", {});
    fill(root, el("p", { class: "lead" }, "Each row is a token that looks back; each column a token that it sees. The stronger a cell’s color, the more attention it gets."),
      attentionLayers > 1 && el("p", { class: "jumps" }, range(0, attentionLayers).map((l) =>
        link(`attention/layer${l}`, `layer ${l}`, { "aria-current": l === layer ? "true" : null }))),
      el("div", { class: "maps" }, frames), readout, legend(sequential, 0, 1, [[0, "0"], [0.5, "0.25"], [1, "1"]]), title, text.node, panel);
    const update = (words) => {
      if (numbered(words, "layer", attentionLayers, 0) !== layer) return redraw();
      const head = numbered(words, "head", heads, 0), q = state.token = numbered(words, "token", length, state.token ?? length - 1);
      const row = range(0, q + 1).map((k) => at(weights, [head, q, k]));
      const k = numbered(words, "key", q + 1, row.indexOf(Math.max(...row)));
      now = { head };
      frames.forEach((frame, h) => frame.classList.toggle("now", h === head));
      maps.forEach((map, h) => (h === head ? map.select(q, k) : (map.grid.querySelector(".cursor").hidden = true)));
      title.replaceChildren(`Head ${head}: where `, piece(readPiece(q)), ` (token ${q}) looks`);
      text.update(q);
      text.repaint((t) => (t <= q ? sequential(Math.sqrt(row[t])) : null), (t) => (t <= q ? fixed(row[t], 2) : "–"));
      panel.replaceChildren(...(op?.kind === "scores" ? scoreTerms(op, name, head, q, k, row, pathTo)
        : [note("The scores are computed by ", facts.model_file, ".")]));
      return undefined;
    };
    update(args);
    return update;
  },
};

function scoreTerms(op, weights, head, q, k, row, pathTo) {
  const [dot, scaled] = KINDS.scores.steps(op, [head, q, k]), most = largestOf(dot.rows.map((r) => r.value)) || 1;
  const order = range(0, q + 1).sort((a, b) => row[b] - row[a]);
  return [
    el("div", {}, el("h3", {}, "Its keys"), longTable(["key", "score", "", "weight"], order.map((one) => ({
      class: one === k ? "target" : null,
      cells: [link(pathTo(head, q, one), piece(`${one} ${readPiece(one)}`)), numberLink({ name: op.name, index: [head, q, one] }),
        bar(row[one]), numberLink({ name: weights, index: [head, q, one] })],
    })), 16, { name: "Keys" })),
    el("div", {}, el("h3", {}, "Query ", piece(readPiece(q)), " · key ", piece(readPiece(k)), ", term by term"),
      longTable(["column", "query", "key", "product", ""], dot.rows.map((r) => [String(r.label), ...r.operands.map(operandCell),
        el("span", { class: "n" }, brief(r.value)), sideBar(r.value / most)]), 16, { name: "Terms" }),
      el("p", { class: "formula" }, `sum ${brief(dot.value)}, divided by √${facts.head_dim}: ${brief(scaled.value)}`),
      compared("computed from the terms", scaled.value, valueOf(op.name, [head, q, k]), arrayOf(op.name).narrow)),
  ];
}
