// View 10: how the text was split into tokens; of byte-pair encoding, every merge.

const chip = (id, extra = "") => el("span", { class: `chip ${extra}` }, piece(pieceOf(id)),
  el("small", {}, String(id)));
const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

VIEWS.tokenizer = {
  heading: () => [plural(length - 1, "token"),
    el("span", { class: "aside" }, `of ${facts.vocabulary.length} known`)],
  render(root) {
    const { merges, targets } = facts, panel = el("section", { class: "panel" });
    if (!merges) {
      const chips = [0, ...targets].map((id) => chip(id));
      return void fill(root, el("div", { class: "chips" }, chips));
    }
    const tokensOf = ({ steps }) => steps.at(-1);
    const text = strip({
      pieces: merges.map((m) => visible(m.word)), under: (w) => tokensOf(merges[w]).join(" "),
      name: (w) => `word ${w}, ${visible(merges[w].word)}: ${tokensOf(merges[w]).length} tokens`,
      choose: (w, replace) => go(`tokenizer/word${w}`, replace) });
    fill(root, text.node, panel);
    const lengths = merges.map((m) => m.steps.length);
    const longest = lengths.indexOf(Math.max(...lengths));
    return (parts) => {
      const w = numbered(parts, "word", merges.length, longest);
      text.update(w);
      if (merges.length) panel.replaceChildren(...mergesOf(merges[w]));
    };
  },
};

function mergesOf({ word, steps }) {
  const rows = steps.map((tokens, s) => {
    const before = steps[s - 1], place = before?.findIndex((id, i) => id !== tokens[i]) ?? -1;
    const words = place < 0 ? plural(tokens.length, "byte") : ["merge no. ",
      String(tokens[place] - 256), ": ", ...before.slice(place, place + 2).flatMap((id, i) =>
        [i ? " + " : "", piece(pieceOf(id))])];
    const chips = tokens.map((id, i) => chip(id, i === place ? "new" : ""));
    return [String(s), el("span", { class: "chips" }, chips), el("span", {}, words)];
  });
  return [el("h2", {}, "Merges of ", piece(visible(word))),
    table(["step", "tokens", "what was merged"], rows)];
}
