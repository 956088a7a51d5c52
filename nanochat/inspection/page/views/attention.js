// View 4: the pattern of every head of a layer; for one query and key, the score term by term.

VIEWS.attention = {
  render(root, args) {
    const layer = numbered(args, "layer", attentionLayers, 0), name = `layer${layer}.attn.weights`;
    const weights = arrayOf(name), op = operations.get(`layer${layer}.attn.scores`);
    if (!weights) return void fill(root, why("attention"));
    const heads = weights.shape[0], readout = el("output", { class: "readout" });
    const pathTo = (head, q, key = "") => `attention/layer${layer}/head${head}/token${q}${key}`;
    let chosen = 0; // head
    const maps = range(0, heads).map((head) => heatmap({
      rows: length, columns: length, square: length > 32 ? Math.min(420, innerWidth - 90) : 230,
      scale: (w) => sequential(Math.sqrt(w)), name: `Weights of head ${head}`,
      at: (q, k) => (k > q ? -Infinity : at(weights, [head, q, k])),
      rowLabel: head === 0 ? readPiece : null, columnLabel: readPiece,
      show: (q, k) => readout.replaceChildren(`head ${head}: `, piece(readPiece(q)), " sees ",
        piece(readPiece(k)), " with weight ",
        el("b", {}, full(at(weights, [head, q, k]), weights.narrow))),
      pick: (q, k) => go(pathTo(head, q, `/key${Math.min(k, q)}`)) }));
    const frames = maps.map((map, head) => el("div", { class: "of-head" },
      link(pathTo(head, length - 1), `head ${head}`), map.node));
    const text = strip({
      pieces: range(0, length).map(readPiece), under: isShort && (() => " "),
      name: (t) => `query of token ${t}, ${readPiece(t)}`,
      choose: (t, replace) => go(pathTo(chosen, t), replace) });
    const panel = el("section", { class: "panel columns" }), title = el("h2", {});
    const layers = range(0, attentionLayers).map((l) => link(`attention/layer${l}`, `layer ${l}`,
      { "aria-current": l === layer && "true" }));
    fill(root, attentionLayers > 1 && el("p", { class: "jumps" }, layers),
    el("div", { class: "maps" }, frames), readout,
    legend(sequential, 0, [[0, "0"], [0.5, "0.25"], [1, "1"]]), title, text.node, panel);
    return (words) => {
      if (numbered(words, "layer", attentionLayers, 0) !== layer) return void draw();
      const q = state.token = numbered(words, "token", length, state.token ?? length - 1);
      const head = chosen = numbered(words, "head", heads, 0);
      const row = range(0, q + 1).map((k) => at(weights, [head, q, k]));
      const k = numbered(words, "key", q + 1, row.indexOf(Math.max(...row)));
      frames.forEach((frame, h) => frame.classList.toggle("now", h === head));
      maps.forEach((map, h) => (h === head ? map.select(q, k) : map.hide()));
      title.replaceChildren(`Head ${head}: where `, piece(readPiece(q)), ` (token ${q}) looks`);
      text.update(q);
      text.repaint((t) => (t <= q ? sequential(Math.sqrt(row[t])) : null),
        (t) => (t <= q ? fixed(row[t], 2) : "–"));
      const keyLink = (one) =>
        link(pathTo(head, q, `/key${one}`), piece(`${one} ${readPiece(one)}`));
      panel.replaceChildren(...(op?.kind !== "scores"
        ? [note("The scores are computed by ", facts.model_file, ".")]
        : [keysTable(op, name, [head, q, k], row, keyLink),
          forwardSection(op.name, [head, q, k], ["Query ", piece(readPiece(q)), " · key ",
            piece(readPiece(k)), ", term by term"])]));
    };
  },
};

function keysTable(op, weights, [head, q, k], row, keyLink) {
  const order = range(0, q + 1).sort((a, b) => row[b] - row[a]);
  return el("div", {}, el("h2", {}, "Its keys"),
    longTable("Keys", ["key", "score", "", "weight"], order.map((one) => ({
      class: one === k ? "target" : null,
      cells: [keyLink(one), numberLink({ name: op.name, index: [head, q, one] }), bar(row[one]),
        numberLink({ name: weights, index: [head, q, one] })] }))));
}
