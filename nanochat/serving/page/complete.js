// Plain completion: a prompt and what the model writes after it.

const TABS = {}; // name: {title, render() → node}

TABS.complete = {
  title: "Complete",
  render() {
    const result = el("div", { class: "result", "aria-live": "off" });
    const prompt = area("Prompt", state.prompt, { id: "prompt",
      placeholder: "The beginning of a text, or nothing" });
    prompt.addEventListener("input", () => { state.prompt = prompt.value; });
    const show = () => {
      const { prompt: given, writing } = state.written;
      const view = writingView(writing, "The completion", () => complete(given));
      view.node.firstChild.prepend(el("span", { class: "given" }, given));
      result.replaceChildren(view.node);
      return view;
    };
    const complete = (given) => {
      stopRunning();
      state.written = { prompt: given, writing: newWriting() };
      write("/v1/completions", { prompt: given }, state.written.writing, show());
    };
    const start = () => complete(prompt.value);
    prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) start();
    });
    if (state.written) show();
    const context = facts.context && `Context window: ${facts.context} tokens.`;
    return el("div", {}, prompt, el("p", { class: "actions" },
      button("Complete", start, { class: "primary", title: "Ctrl Enter" }),
      el("span", { class: "soft" }, context)), result);
  },
};
