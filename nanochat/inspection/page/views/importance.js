// Views 8 and 9: what the loss loses without a head, a neuron or a token; two runs side by side.

VIEWS.importance = {
  title: "What matters",
  render(root) {
    if (!facts.importance) return void fill(root, el("h1", {}, "What matters"), why("importance"));
    const { heads, neurons, positions } = facts.importance, cell = (x) => el("span", { class: "n" }, brief(x));
    fill(root, el("h1", {}, "What matters"), el("p", { class: "lead" },
      "How much the loss on this text rises, in nats per token, if a part is removed. Orange parts help; blue ones are in the way."));
    const list = (title, rows) => {
      const most = largestOf(rows.map((r) => r.change)) || 1;
      return el("div", {}, el("h2", {}, title), longTable(["part", "change", ""], rows.map((r) => [r.link, cell(r.change), sideBar(r.change / most)]), 12, { name: title }));
    };
    const most = largestOf(positions ?? []) || 1;
    fill(root, el("h2", {}, "Tokens"), !positions ? why("positions") : [el("p", { class: "lead" }, "No later token sees the one that is removed. Choose one to see where it looks."), strip({
      pieces: range(0, length).map(readPiece), color: (t) => diverging(positions[t] / most), chosen: null, under: length <= 64 ? (t) => (Math.abs(positions[t]) < 1e-9 ? "0" : rounded(positions[t], 2)) : null,
      name: (t) => `token ${t}, ${readPiece(t)}: ${shortest(positions[t])} nats`, choose: (t) => go(attentionLayers ? `attention/layer0/head0/token${t}` : `loss/token${t}`),
    }).node, legend(diverging, -1, 1, [[0, `−${rounded(most, 3)}`], [0.5, "0"], [1, rounded(most, 3)]])]);
    if (!attentionLayers) return;
    const ofHeads = list("Heads", heads.flatMap((row, l) => row.map((change, h) => ({ change, link: link(`attention/layer${l}/head${h}`, `layer ${l}, head ${h}`) }))));
    fill(root, el("div", { class: "columns" }, ofHeads, !neurons ? el("div", {}, el("h2", {}, "Neurons"), why("neurons")) : list("Neurons", neurons.flatMap((row, l) => row.map((change, n) => ({ change, link: link(`forward/layer${l}.mlp.active/0/${n}`, `layer ${l}, neuron ${n}`) })))
      .sort((a, b) => Math.abs(b.change) - Math.abs(a.change)))));
  },
};

VIEWS.compare = {
  title: "Comparison",
  render(root) {
    fill(root, el("h1", {}, "Comparison"));
    const { against } = facts;
    if (!against) return void fill(root, note(el("code", {}, "nanochat inspect --against RUN"), " puts another run next to this one; --against-mode and --against-dtype, another engine or number format."));
    const { rows, first } = against;
    const n = (words) => el("span", { class: "n" }, words), number1 = (x) => n(x === null ? "–" : shortest(x));
    fill(root, el("p", { class: "lead" }, `Against ${against.what}. `,
      el("b", {}, first === null ? "All numbers are equal." : `The first number that differs is in ${rows[first].name}.`)),
    table(["array", "largest difference", "at", "here", "there"], rows.map((r, i) => ({
      class: i === first ? "target" : null,
      cells: [r.index && exists(r.name, r.index) ? link(pathOf("number", r.name, r.index), r.name) : r.name,
        r.largest === null ? "only in one, or of another shape" : n(rounded(r.largest, 3)),
        n(r.index?.join(", ") ?? ""), number1(r.here), number1(r.there)],
    })), { name: "Differences by array" }));
  },
};
