// View 10: how the text was split into tokens; of byte-pair encoding, every merge.

VIEWS.tokenizer = {
  title: "Tokenizer",
  render(root, args) {
    const ids = facts.targets.slice(0, -1), what = { char: "character", byte: "byte" }[facts.tokenizer];
    const chip = (id, extra = "") => el("span", { class: `chip ${extra}` }, piece(pieceOf(id)), el("small", {}, String(id)));
    fill(root, el("h1", {}, `${ids.length} token${ids.length === 1 ? "" : "s"}`, el("span", { class: "aside" }, `of ${facts.vocabulary.length} known`)));
    if (!facts.merges) {
      fill(root, el("p", { class: "lead" }, `Each ${what} is one token. Below each is its number; the text starts and ends with token 0.`),
        el("div", { class: "chips" }, chip(0), ids.map((id) => chip(id)), chip(0)));
      return undefined;
    }
    const panel = el("section", { class: "panel" });
    const words = strip({
      pieces: facts.merges.map((m) => visible(m.word)), color: () => null, chosen: null,
      name: (w) => `word ${w}, ${visible(facts.merges[w].word)}: ${facts.merges[w].steps.at(-1).length} tokens`,
      under: (w) => facts.merges[w].steps.at(-1).join(" "), choose: (w, replace) => go(`tokenizer/word${w}`, replace),
    });
    fill(root, el("p", { class: "lead" }, "The text is cut into words. Each word starts as its bytes; then the pair that was learned first is merged, again and again."),
      words.node, panel);
    const update = (parts) => {
      const longest = facts.merges.reduce((best, m, i) => (m.steps.length > facts.merges[best].steps.length ? i : best), 0);
      const w = numbered(parts, "word", facts.merges.length, longest);
      words.update(w);
      if (facts.merges.length) panel.replaceChildren(...mergesOf(facts.merges[w], chip));
    };
    update(args);
    return update;
  },
};

function mergesOf({ word, steps }, chip) {
  const rows = steps.map((tokens, s) => {
    const before = steps[s - 1], place = before ? tokens.findIndex((id, i) => id !== before[i]) : -1;
    const merged = place < 0 ? `${tokens.length} byte${tokens.length === 1 ? "" : "s"}`
      : ["merge no. ", String(tokens[place] - 256), ": ", piece(pieceOf(before[place])), " + ", piece(pieceOf(before[place + 1]))];
    return [String(s), el("span", { class: "chips" }, tokens.map((id, i) => chip(id, i === place ? "new" : ""))), el("span", {}, merged)];
  });
  return [el("h2", {}, "Merges of ", piece(visible(word))), table(["step", "tokens", "what was merged"], rows)];
}
