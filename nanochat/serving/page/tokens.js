// A text as its tokens: pointed at or focused, each shows what the model was about to say.

// Return a view of {text, tokens}, both of which may grow. `paint(tokens)` gives a style.
//   A span has several tokens if they are parts of one character.
function tokenView(written, name, paint = () => ({})) {
  const node = el("div", { class: "tokens", role: "group", dir: "auto",
    "aria-label": `${name}; arrow keys move from token to token` });
  const groups = new WeakMap(); // span: its tokens
  let next = 0, offset = 0;
  const add = (count, text) => {
    const tokens = written.tokens.slice(next, next + count);
    const span = el("span",
      { class: "token", tabindex: next ? "-1" : "0", style: paint(tokens) }, text);
    groups.set(span, tokens);
    node.append(span);
    next += count;
    offset += text.length;
  };
  const update = (isEnd) => {
    for (;;) {
      const count = written.tokens.slice(next).findIndex((token) => token.text) + 1;
      const end = count && offset + written.tokens[next + count - 1].text.length;
      if (!count || end > written.text.length) break;
      add(count, written.text.slice(offset, end));
    }
    if (!isEnd || offset >= written.text.length) return;
    if (next < written.tokens.length) add(written.tokens.length - next, written.text.slice(offset));
    else node.append(written.text.slice(offset));
  };
  const show = (event) => {
    const span = event.target.closest(".token");
    if (span) showToken(span, groups.get(span));
  };
  node.addEventListener("pointerover", show);
  node.addEventListener("focusin", show);
  node.addEventListener("click", (event) => event.target.closest(".token")?.focus());
  node.addEventListener("keydown", (event) => {
    const now = document.activeElement;
    const to = { ArrowLeft: now.previousElementSibling, ArrowRight: now.nextElementSibling,
      Home: node.querySelector(".token"), End: node.lastElementChild }[event.key];
    if (!groups.has(now) || !groups.has(to)) return;
    event.preventDefault();
    now.tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
  });
  return { node, update };
}

let chosen = null; // the span whose tokens are shown

function showToken(span, tokens) {
  if (chosen === span) return;
  chosen?.classList.remove("chosen");
  chosen = span;
  span.classList.add("chosen");
  byId("token").replaceChildren(
    button("×", hideToken, { class: "close", "aria-label": "Close", title: "Close (Escape)" }),
    ...tokens.flatMap(said));
  byId("token").classList.add("open");
}

function hideToken() {
  chosen?.classList.remove("chosen");
  chosen = null;
  byId("token").classList.remove("open");
  byId("token").replaceChildren(el("p", { class: "soft" },
    "Point at a token, or move to it with Tab and the arrow keys, to see what the model",
    " expected."));
}

const bar = (part) => el("span", { class: "bar", "aria-hidden": "true" },
  el("i", { style: { width: `${100 * Math.min(part, 1)}%` } }));

// What the model said of one token.
function said(token) {
  const { nats, likeliest = [] } = token, p = token.probability ?? Math.exp(-nats);
  const facts = [`probability ${percent(p)}`];
  if (nats !== undefined) {
    facts.push(`${nats.toFixed(4)} nats`, `${(nats * Math.LOG2E).toFixed(3)} bits`);
  }
  const isMixed = (token.counts_share ?? null) !== null;
  if (isMixed) facts.push(`share of the counts ${percent(token.counts_share)}`);
  const others = likeliest.some((one) => one.id === token.id) || !likeliest.length
    ? likeliest : [...likeliest, token];
  const heads = ["next", "probability", "", ...(isMixed ? ["network", "counts"] : [])];
  return [
    el("h2", {}, piece(token.token)), el("p", { class: "soft" }, facts.join(" · ")),
    others.length > 0 && el("table", { "aria-label": "What the model was about to say" },
      el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))),
      el("tbody", {}, others.map((one) => el("tr", { class: one.id === token.id && "came" },
        [piece(one.token), percent(one.probability), bar(one.probability / others[0].probability),
          ...(isMixed ? [percent(one.network), percent(one.counts)] : [])]
          .map((cell) => el("td", {}, cell)))))),
  ].filter(Boolean);
}
