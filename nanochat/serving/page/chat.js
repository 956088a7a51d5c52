// A conversation. A message that was sent can be edited, which drops what came after it.

// Whether a reply was refused or stopped before its first token. Later replies then read neither it
//   nor its message, which may be what the server refuses.
const isNoReply = (message) => message?.writing !== undefined && message.writing.text === ""
  && (message.writing.reason === "failed" || message.writing.reason === "stopped");

if (facts.has_chat) TABS.chat = {
  title: "Chat",
  render() {
    const list = el("div", { class: "messages", role: "log", "aria-live": "off" });
    const draft = area("Message", state.draft, { id: "draft", rows: 2, placeholder: "Message" });
    draft.addEventListener("input", () => { state.draft = draft.value; });

    const answer = () => {
      stopRunning();
      const read = state.messages.filter((message, number) =>
        !isNoReply(message) && !isNoReply(state.messages[number + 1]));
      const writing = newWriting();
      // What did not fit before an earlier reply does not fit before this one.
      writing.left = Math.max(0, ...read.map((message) => message.writing?.left ?? 0));
      const messages = read.slice(writing.left).map((message) =>
        ({ role: message.role, content: message.content ?? message.writing.text }));
      const withoutOldest = (body) => {
        const next = body.messages.findIndex(({ role }, number) => number > 0 && role === "user");
        if (next < 0) return null;
        writing.left += next;
        return { ...body, messages: body.messages.slice(next) };
      };
      state.messages.push({ role: "assistant", writing });
      const views = show();
      write("/v1/chat/completions", { messages }, writing, views.at(-1), withoutOldest);
      scrollTo(0, document.documentElement.scrollHeight);
    };
    const sendFrom = (number, content) => {
      stopRunning();
      state.messages.splice(number, Infinity, { role: "user", content });
      answer();
    };
    const editing = (number, content) => {
      const changed = area("Edit the message", content);
      const send = () => sendFrom(number, changed.value);
      onEnter(changed, send);
      const cancel = () => {
        show();
        list.children[number].querySelector("button").focus();
      };
      changed.addEventListener("keydown", (event) => event.key === "Escape" && cancel());
      const node = el("div", { class: "message user" }, changed, el("p", { class: "about" },
        button("Send again", send, { class: "primary" }),
        button("Cancel", cancel, { title: "Cancel (Escape)" })));
      return { node, focus: () => { grow(changed); changed.focus(); } };
    };
    const edit = (number) => {
      const form = editing(number, state.messages[number].content);
      list.children[number].replaceWith(form.node);
      form.focus();
    };
    const viewOf = (message, number) => {
      if (message.role === "user") {
        const node = el("div", { class: "message user" },
          el("div", { class: "said", dir: "auto" }, message.content),
          el("p", { class: "about" }, button("Edit", () => edit(number))));
        return { node };
      }
      const regenerate = () => {
        stopRunning();
        state.messages.length = number;
        answer();
      };
      // Of an earlier reply it would drop all that was said since.
      const again = number === state.messages.length - 1 && regenerate;
      const view = writingView(message.writing, `Reply ${(number + 1) / 2}`, again);
      view.node.classList.add("message");
      return view;
    };
    const show = () => {
      const views = state.messages.map(viewOf);
      list.replaceChildren(...views.map((view) => view.node));
      return views;
    };
    const send = () => {
      if (!draft.value.trim()) return;
      const content = draft.value;
      state.draft = draft.value = "";
      grow(draft);
      sendFrom(state.messages.length, content);
    };
    const clear = () => {
      stopRunning();
      state.messages = [];
      show();
      draft.focus();
    };
    onEnter(draft, send);
    show();
    return el("div", { class: "chat" }, list, el("div", { class: "composer" }, draft,
      el("p", { class: "actions" },
        button("Send", send, { class: "primary", title: "Enter; Shift Enter begins a line" }),
        button("New conversation", clear))));
  },
};

function onEnter(node, send) {
  node.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
}
