// The loss of every token of a text, in colors.

TABS.score = {
  title: "Score",
  render() {
    const result = el("div", { class: "result" });
    const text = area("Text to score", state.text, { id: "text", rows: 5,
      placeholder: "A text, to see how much each token surprises the model" });
    text.addEventListener("input", () => { state.text = text.value; });
    const fail = (message) => result.replaceChildren(
      el("p", { class: "error", role: "alert" }, message));
    const score = async () => {
      stopRunning();
      hideToken();
      const controller = new AbortController();
      const me = running = { stop: () => controller.abort() };
      state.scored = null; // the colors of another text would be taken for those of this one
      result.replaceChildren();
      try {
        state.scored = await scoreOf(text.value, controller.signal);
        if (result.isConnected) result.replaceChildren(...scoredView(state.scored));
      } catch (error) {
        if (error instanceof Failure) fail(error.message);
        else if (error.name !== "AbortError") throw error;
      } finally {
        if (running === me) running = null;
        save();
      }
    };
    text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) score();
    });
    if (state.scored) result.append(...scoredView(state.scored));
    return el("div", {}, text, el("p", { class: "actions" },
      button("Score", score, { class: "primary", title: "Ctrl Enter" }),
      el("span", { class: "soft" }, `At most ${facts.most_tokens} tokens.`)), result);
  },
};

const END = "∎\n"; // of a document

function scoredView({ mean, bpb, tokens }) {
  const shown = tokens.map((token) => (token.token === "" ? { ...token, text: END } : token));
  const most = Math.max(facts.uniform, ...tokens.map((token) => token.nats));
  const written = { tokens: shown, text: shown.map((token) => token.text).join("") };
  const part = (group) => group.reduce((sum, token) => sum + token.nats, 0) / most;
  const view = tokenView(written, "The scored text", (group) => painted(part(group)));
  view.update(true);
  const ticks = [[0, "0"], [facts.uniform / most, `${facts.uniform.toFixed(2)} a guess`]];
  if (most > facts.uniform * 1.35) ticks.push([1, `${most.toFixed(2)} nats`]);
  return [
    el("h2", {}, `${mean.toFixed(4)} nats per token`,
      el("span", { class: "soft" }, ` ${bpb.toFixed(4)} bits per byte`)),
    legend(ticks), view.node,
  ];
}
