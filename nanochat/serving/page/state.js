// What the page remembers until its tab is closed. The API key is not part of it.

const PLACE = "nanochat";
const state = {
  tab: facts.has_chat ? "chat" : "complete", theme: "auto", options: { ...facts.options },
  prompt: "", written: null, // the prompt of the completion and what followed: {prompt, writing}
  messages: [], draft: "", // {role, content}, and {role, writing} of the assistant
  text: "", scored: null,
};

function restore() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(PLACE));
    if (kept?.model === facts.model) Object.assign(state, kept.state);
  } catch {
    sessionStorage.removeItem(PLACE);
  }
  if (!facts.has_chat && state.tab === "chat") state.tab = "complete";
}

// Save all, or without the alternatives of the tokens if that is too much for the browser.
function save() {
  const without = (key, value) => (key === "likeliest" ? undefined : value);
  for (const replacer of [null, without]) {
    try {
      sessionStorage.setItem(PLACE, JSON.stringify({ model: facts.model, state }, replacer));
      return;
    } catch {
      sessionStorage.removeItem(PLACE);
    }
  }
}
