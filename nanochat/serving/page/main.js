// The frame: tabs, options, the key, the theme, and what is kept over a reload.

const OPTIONS = {
  temperature: ["Temperature", { min: 0, step: 0.1 }],
  top_k: ["Top-k (0: all)", { min: 0, step: 1 }],
  top_p: ["Top-p", { min: 0, max: 1, step: 0.05 }],
  max_tokens: ["Max tokens", { min: 1, max: facts.most_tokens, step: 1 }],
  seed: ["Seed", { min: 0, step: 1, placeholder: "random" }],
};

function showOptions() {
  for (const [name, [label, attributes]] of Object.entries(OPTIONS)) {
    const input = el("input", { type: "number", name, ...attributes });
    input.value = state.options[name] ?? "";
    input.addEventListener("input", () => {
      state.options[name] = input.value === "" ? null : Number(input.value);
    });
    byId("options").append(el("label", {}, el("span", {}, label), input));
  }
  byId("options").open = innerWidth > 900;
}

function showKeyForm() {
  const form = byId("key"), input = el("input", { type: "password", autocomplete: "off" });
  form.replaceChildren(el("label", {}, el("span", {}, "API key"), input),
    el("button", { class: "primary" }, "Use"));
  form.onsubmit = (event) => {
    event.preventDefault();
    apiKey = input.value.trim() || null;
    form.hidden = apiKey !== null;
  };
  form.hidden = false;
  input.focus();
}

function showTab(name) {
  stopRunning();
  state.tab = name;
  for (const tab of byId("tabs").children) {
    const isChosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", isChosen);
    tab.tabIndex = isChosen ? 0 : -1;
  }
  hideToken();
  byId("options").hidden = name === "score";
  document.documentElement.dataset.theme = themeShown();
  byId("main").setAttribute("role", "tabpanel");
  byId("main").setAttribute("aria-labelledby", `tab-${name}`);
  byId("main").replaceChildren(TABS[name].render());
  for (const node of byId("main").querySelectorAll("textarea")) grow(node);
}

function showTabs() {
  const names = Object.keys(TABS).sort((a, b) => (b === "chat") - (a === "chat"));
  byId("tabs").append(...names.map((name) => button(TABS[name].title, () => showTab(name),
    { id: `tab-${name}`, role: "tab", "aria-controls": "main" })));
  byId("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    showTab(names[(names.indexOf(state.tab) + step + names.length) % names.length]);
    byId(`tab-${state.tab}`).focus();
  });
}

function showTheme() {
  const themes = ["auto", "light", "dark"];
  byId("theme").textContent = `Theme: ${state.theme}`;
  byId("theme").onclick = () => {
    state.theme = themes[(themes.indexOf(state.theme) + 1) % themes.length];
    showTheme();
    repaint();
  };
}

// Colors of a text are computed, so it is drawn anew; a text that is being written has none.
function repaint() {
  document.documentElement.dataset.theme = themeShown();
  if (state.tab === "score") showTab("score");
}

restore();
showOptions();
showTheme();
showTabs();
showTab(state.tab);
byId("model").textContent = facts.model ?? "";
if (facts.needs_key) showKeyForm();
darkSystem.addEventListener("change", repaint);
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (running) stopRunning();
  else hideToken();
});
addEventListener("beforeunload", stopRunning); // before the browser ends the connection itself
addEventListener("pagehide", () => {
  for (const writing of [state.written?.writing, ...state.messages.map((one) => one.writing)]) {
    if (writing?.reason === null) writing.reason = "stopped";
  }
  save();
});
