// View 5: what the output head says after each stage, and what each stage adds to a logit.

const SHOWN_AT_ONCE = 16; // tokens, the columns of the table

VIEWS.lens = {
  title: "Logit lens",
  render(root, args) {
    if (!facts.lens) return void fill(root, el("h1", {}, "Logit lens"), why("lens"));
    const { stages, losses, top } = facts.lens;
    const text = strip({
      pieces: range(0, length).map(targetPiece), color: () => null, name: tokenWords, chosen: null,
      choose: (t, replace) => go(`lens/token${t}`, replace),
    });
    const panel = el("section", { class: "panel" });
    fill(root, el("h1", {}, "Logit lens"), el("p", { class: "lead" },
      "What the model would predict if it stopped after each stage. The stronger a cell’s color, the likelier the token that really came."),
    text.node, legend(sequential, 0, 1, [[0, "0"], [0.5, "25 %"], [1, "100 %"]]), panel);
    const update = (words) => {
      const t = chosenToken(words), first = t - (t % SHOWN_AT_ONCE), columns = range(first, Math.min(first + SHOWN_AT_ONCE, length));
      text.update(t);
      const cell = (s, one) => {
        const p = Math.exp(-losses[s][one]), name = `After ${stages[s]}, token ${one}: ${pieceOf(top[s][one])}; the target has ${percent(p)}`;
        return el("td", { class: one === t ? "now" : null }, el("button", {
          type: "button", class: "token", tabindex: "-1", style: painted(sequential(Math.sqrt(p))), title: name, "aria-label": name,
          onclick: () => go(`lens/token${one}`),
        }, piece(pieceOf(top[s][one])), el("small", {}, percent(p))));
      };
      panel.replaceChildren(
        table(["after", ...columns.map((one) => piece(targetPiece(one)))], stages.map((stage, s) => el("tr", {},
          el("th", { scope: "row" }, stage), columns.map((one) => cell(s, one)))), { name: "Top prediction by stage", class: "stages" }),
        el("h2", {}, "What each stage adds to the logit of ", piece(targetPiece(t))), contributionsTable(t),
        config.logit_softcap ? note("The sum is the logit before the soft-cap.") : "");
    };
    update(args);
    return update;
  },
};

function contributionsTable(t) {
  const { stages, contributions, means, losses } = facts.lens;
  const rows = stages.map((stage, s) => ({
    stage, own: contributions[s][t], over: contributions[s][t] - means[s][t], nats: losses[s][t],
  }));
  const most = largestOf(rows.map((r) => r.own)) || 1, cell = (x) => el("span", { class: "n" }, brief(x));
  return table(["stage", "adds", "", "more than to the mean logit", "loss after it"], [
    ...rows.map((r) => [r.stage, cell(r.own), sideBar(r.own / most), cell(r.over), cell(r.nats)]),
    { class: "target", cells: ["sum", cell(total(rows.map((r) => r.own))), "", cell(total(rows.map((r) => r.over))), ""] },
  ], { name: "Contributions by stage" });
}
