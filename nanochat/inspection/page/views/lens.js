// View 5: what the output head says after each stage, and what each stage adds to a logit.

const SHOWN_AT_ONCE = 16; // tokens, the columns of the table

VIEWS.lens = {
  render(root) {
    if (!facts.lens) return void fill(root, why("lens"));
    const { stages, losses, top } = facts.lens, panel = el("section", { class: "panel" });
    const choose = (t, replace) => go(`lens/token${t}`, replace);
    const text = strip({ pieces: range(0, length).map(targetPiece), name: tokenWords, choose });
    fill(root, text.node, legend(sequential, 0, [[0, "0"], [0.5, "25 %"], [1, "100 %"]]), panel);
    const cell = (s, t, isNow) => {
      const p = Math.exp(-losses[s][t]), best = pieceOf(top[s][t]);
      const name = `After ${stages[s]}, token ${t}: ${best}; the target has ${percent(p)}`;
      return el("td", { class: isNow && "now" }, el("button", {
        type: "button", class: "token", tabindex: "-1", title: name, "aria-label": name,
        style: painted(sequential(Math.sqrt(p))), onclick: () => choose(t, false),
      }, piece(best), el("small", {}, percent(p))));
    };
    return (words) => {
      const t = chosenToken(words), first = t - (t % SHOWN_AT_ONCE);
      const columns = range(first, Math.min(first + SHOWN_AT_ONCE, length));
      text.update(t);
      panel.replaceChildren(table(["after", ...columns.map((one) => piece(targetPiece(one)))],
          stages.map((stage, s) => el("tr", {}, el("th", { scope: "row" }, stage),
            columns.map((one) => cell(s, one, one === t)))),
          { name: "Top prediction by stage", class: "stages" }),
        el("h2", {}, "What each stage adds to the logit of ", piece(targetPiece(t))),
        contributionsTable(t), facts.output_rmsnorm ? note("The head reads the normalized residual "
          + "stream. Each addition has the scale that the norm gives to the final stream, so they "
          + "add up; the prediction after a stage has that of its own norm.") : "",
        CAP ? note("The sum is the logit before the soft-cap.") : "");
    };
  },
};

function contributionsTable(t) {
  const { stages, contributions, means, losses } = facts.lens, cell = (x) => digits(brief(x));
  const own = contributions.map((each) => each[t]);
  const over = own.map((x, s) => x - means[s][t]), most = largestOf(own) || 1;
  return table(["stage", "adds", "", "more than to the mean logit", "loss after it"], [
    ...stages.map((stage, s) =>
      [stage, cell(own[s]), sideBar(own[s] / most), cell(over[s]), cell(losses[s][t])]),
    { class: "target", cells: ["sum", cell(total(own)), "", cell(total(over)), ""] },
  ], { name: "Contributions by stage" });
}
