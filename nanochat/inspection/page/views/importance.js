// Views 8 and 9: what the loss loses without a head, a neuron or a token; two runs side by side.

// Changes by layer and part as rows of a table, with the link of each.
function partsTable(title, changes, path, kind) {
  const rows = changes.flatMap((row, l) => row.map((change, i) =>
    ({ change, link: link(path(l, i), `layer ${l}, ${kind} ${i}`) })));
  const most = largestOf(rows.map((r) => r.change)) || 1;
  if (kind === "neuron") rows.sort((a, b) => Math.abs(b.change) - Math.abs(a.change));
  return longTable(title, ["part", "change", ""], rows.map((r) =>
    [r.link, digits(brief(r.change)), sideBar(r.change / most)]), 12);
}

VIEWS.importance = {
  render(root) {
    if (!facts.importance) return void fill(root, why("importance"));
    const { heads, neurons, positions } = facts.importance;
    fill(root, el("h2", {}, "Tokens"));
    if (positions) {
      const most = largestOf(positions) || 1;
      const change = (t) => (Math.abs(positions[t]) < 1e-9 ? "0" : rounded(positions[t], 2));
      const text = strip({
        pieces: range(0, length).map(readPiece), color: (t) => diverging(positions[t] / most),
        under: isShort && change,
        name: (t) => `token ${t}, ${readPiece(t)}: ${shortest(positions[t])} nats`,
        choose: (t) => go(attentionLayers ? `attention/layer0/head0/token${t}` : `loss/token${t}`),
      });
      fill(root, lead("No later token sees the one that is removed. Choose one to see where it ",
        "looks."), text.node, divergingLegend(most));
    } else fill(root, why("positions"));
    if (!attentionLayers) return;
    const columns = [el("h2", {}, "Heads"), partsTable("Heads", heads,
      (l, h) => `attention/layer${l}/head${h}`, "head")];
    fill(root, el("div", { class: "columns" }, el("div", {}, columns),
      el("div", {}, el("h2", {}, "Neurons"), neurons ? partsTable("Neurons", neurons,
        (l, n) => `forward/layer${l}.mlp.active/0/${n}`, "neuron") : why("neurons"))));
  },
};

VIEWS.compare = {
  render(root) {
    if (!facts.against) {
      return void fill(root, note(el("code", {}, "nanochat inspect --against RUN"),
        " puts another run next to this one; --against-mode, --against-dtype and ",
        "--against-numerics put another engine, number format or numerics there."));
    }
    const { what, rows, first } = facts.against;
    const shownNumber = (x) => digits(x === null ? "–" : shortest(x));
    fill(root, lead(`Against ${what}. `, el("b", {}, first === null ? "All numbers are equal."
      : `The first number that differs is in ${rows[first].name}.`)),
    table(["array", "largest difference", "at", "here", "there"], rows.map((r, i) => ({
      class: i === first ? "target" : null,
      cells: [r.index && exists(r.name, r.index) ? link(pathOf("number", r.name, r.index), r.name)
        : r.name,
      r.largest === null ? "only in one, or of another shape" : digits(rounded(r.largest, 3)),
      digits(r.index?.join(", ") ?? ""), shownNumber(r.here), shownNumber(r.there)],
    })), { name: "Differences by array" }));
  },
};
