// View 1: the text by its loss, with the likeliest next tokens.

const BITS = Math.LOG2E;
const isShort = length <= 64; // the tokens have room for a number each
const tokenWords = (t) =>
  `token ${t}, ${targetPiece(t)} after ${readPiece(t)}: ${fixed(facts.losses[t])} nats`;
const chosenToken = (args, otherwise = 0) => {
  state.token = numbered(args, "token", length, state.token ?? otherwise);
  return state.token;
};

VIEWS.loss = {
  heading: () => [`${fixed(facts.mean)} nats per token`,
    el("span", { class: "aside" }, `${fixed(facts.mean * BITS)} bits`)],
  render(root) {
    const uniform = Math.log(facts.vocabulary.length);
    const most = Math.max(largestOf(facts.losses), uniform);
    const hardest = facts.losses.indexOf(Math.max(...facts.losses.filter(Number.isFinite)));
    const text = strip({
      pieces: range(0, length).map(targetPiece), name: tokenWords,
      color: (t) => surprise((facts.losses[t] ?? most) / most),
      under: isShort && ((t) => fixed(facts.losses[t], 2)),
      choose: (t, replace) => go(`loss/token${t}`, replace) });
    const panel = el("section", { class: "panel" });
    const ticks = [[0, "0"], [uniform / most, `${fixed(uniform, 2)} uniform`]];
    if (most > uniform * 1.35) ticks.push([1, fixed(most, 2)]);
    fill(root, text.node, legend(surprise, 0, ticks), panel);
    return (words) => {
      const t = chosenToken(words, Math.max(hardest, 0));
      text.update(t);
      panel.replaceChildren(...expectations(t));
    };
  },
};

function expectations(t) {
  const list = facts.likeliest[t], target = facts.targets[t], counted = facts.by_counts !== null;
  const probability = Math.exp(-facts.losses[t]), share = arrayOf("counts_share");
  const rows = list.map((one, rank) => ({ rank: rank + 1, ...one }));
  if (!list.some((one) => one.token === target)) {
    rows.push({ rank: "…", token: target, probability, counts: facts.by_counts?.[t],
      network: Math.exp(-facts.network_losses[t]) });
  }
  const most = Math.max(list[0].probability, probability);
  const fact = (term, ...value) => el("div", {}, el("dt", {}, term), el("dd", {}, ...value));
  return [el("h2", {}, "After ", piece(readPiece(t)), " came ", piece(targetPiece(t))),
    el("dl", { class: "figures" },
      fact("loss", arrayOf("losses") ? numberLink({ name: "losses", index: [t] })
        : brief(facts.losses[t]), " nats"), fact("in bits", brief(facts.losses[t] * BITS)),
      fact("its probability", percent(probability)),
      counted && share && fact("share of the counts", percent(share.numbers[t]))),
    table(["", "next", "probability", "", ...(counted ? ["network", "counts"] : [])],
      rows.map((one) => ({
        class: one.token === target ? "target" : null,
        cells: [String(one.rank), el("span", {}, piece(pieceOf(one.token)),
          one.token === target && el("small", {}, " came")),
        bar(one.probability / most), percent(one.probability),
        ...(counted ? [percent(one.network), percent(one.counts)] : [])],
      })), { name: "The likeliest next tokens" }),
  ];
}
