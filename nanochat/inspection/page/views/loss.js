// View 1: the text by its loss, with the likeliest next tokens.

const BITS = Math.LOG2E;
const tokenWords = (t) => `token ${t}, ${targetPiece(t)} after ${readPiece(t)}: ${fixed(facts.losses[t])} nats`;
const chosenToken = (args, otherwise = 0) => {
  state.token = numbered(args, "token", length, state.token ?? otherwise);
  return state.token;
};

VIEWS.loss = {
  title: "Loss",
  render(root, args) {
    const uniform = Math.log(facts.vocabulary.length), most = Math.max(largestOf(facts.losses), uniform);
    const hardest = facts.losses.indexOf(Math.max(...facts.losses.filter(Number.isFinite)));
    const color = (t) => surprise((facts.losses[t] ?? most) / most);
    const text = strip({
      pieces: range(0, length).map(targetPiece), color, name: tokenWords, chosen: null,
      under: length <= 64 ? (t) => fixed(facts.losses[t], 2) : null, choose: (t, replace) => go(`loss/token${t}`, replace),
    });
    const panel = el("section", { class: "panel" }), bits = el("span", { class: "aside" }, `${fixed(facts.mean * BITS)} bits`);
    fill(root, el("h1", {}, `${fixed(facts.mean)} nats per token`, bits),
      el("p", { class: "lead" }, `How much each of the ${length} tokens surprised the model. Choose one to see what it expected there.`),
      text.node,
      legend((part) => surprise(part), 0, 1, [[0, "0"], [uniform / most, `${fixed(uniform, 2)} uniform`],
        ...(most > uniform * 1.35 ? [[1, fixed(most, 2)]] : [])]),
      panel);
    const update = (words) => {
      const t = chosenToken(words, Math.max(hardest, 0));
      text.update(t);
      panel.replaceChildren(...expectations(t));
    };
    update(args);
    return update;
  },
};

function expectations(t) {
  const list = facts.likeliest[t], target = facts.targets[t], counted = facts.by_counts !== null;
  const probability = Math.exp(-facts.losses[t]), share = arrayOf("counts_share");
  const rows = list.map((one, rank) => ({ rank: rank + 1, ...one }));
  if (!list.some((one) => one.token === target)) {
    rows.push({ rank: "…", token: target, probability, network: Math.exp(-facts.network_losses[t]),
      counts: counted ? facts.by_counts[t] : null });
  }
  const most = list[0].probability;
  const fact = (term, ...value) => el("div", {}, el("dt", {}, term), el("dd", {}, ...value)), losses = arrayOf("losses");
  return [
    el("h2", {}, "After ", piece(readPiece(t)), " came ", piece(targetPiece(t))),
    el("dl", { class: "figures" },
      fact("loss", losses ? numberLink({ name: "losses", index: [t] }) : brief(facts.losses[t]), " nats"),
      fact("in bits", brief(facts.losses[t] * BITS)),
      fact("its probability", percent(probability)),
      counted && share && fact("share of the counts", percent(share.numbers[t]))),
    table(["", "next", "probability", "", ...(counted ? ["network", "counts"] : [])], rows.map((one) => ({
      class: one.token === target ? "target" : null,
      cells: [String(one.rank), el("span", {}, piece(pieceOf(one.token)), one.token === target && el("small", {}, " came")),
        bar(one.probability / Math.max(most, probability)), percent(one.probability),
        ...(counted ? [percent(one.network), percent(one.counts)] : [])],
    })), { name: "The likeliest next tokens" }),
  ];
}
