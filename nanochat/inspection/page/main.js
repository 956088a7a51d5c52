// The frame: navigation, fragments of the address, theme, digits.

const main = document.getElementById("main");
let shown = null; // {name, update}: the view on the page

// Go to a fragment. Replacing leaves no step for the back button.
function go(path, replace = false) {
  if (!replace) location.hash = path;
  else {
    history.replaceState(null, "", `#${path}`);
    route();
  }
}

// The view of the fragment, and its other words.
function words() {
  let found = [];
  try {
    found = location.hash.slice(1).split("/").map(decodeURIComponent);
  } catch { /* a fragment that is no text */ }
  return Object.hasOwn(VIEWS, found[0]) ? found : ["loss", ...found.slice(1)];
}

// The number of a word such as token5, between 0 and count − 1; `otherwise` if there is none.
function numbered(args, word, count, otherwise) {
  const found = args.map((arg) => new RegExp(`^${word}(\\d+)$`).exec(arg)).find(Boolean);
  return found && Number(found[1]) < count ? Number(found[1]) : otherwise;
}

function route(event) {
  const [name, ...args] = words();
  if (shown?.name === name && shown.update) shown.update(args);
  else draw(event !== undefined);
  for (const a of document.querySelectorAll("nav a")) {
    if (a.dataset.view !== (VIEWS[name].tab ?? name)) a.removeAttribute("aria-current");
    else {
      a.setAttribute("aria-current", "page");
      const nav = a.closest("nav"); // a row that scrolls on a narrow screen
      nav.scrollLeft = a.offsetLeft - (nav.clientWidth - a.offsetWidth) / 2;
    }
  }
}

function draw(byFragment = false) {
  const [name, ...args] = words(), view = VIEWS[name];
  const { title, lead } = own(facts.views, name) ?? {};
  document.documentElement.dataset.theme = themeShown();
  const root = el("div", { class: `view ${name}` }, 
    title && el("h1", {}, view.heading?.() ?? title), lead && el("p", { class: "lead" }, lead));
  main.replaceChildren(root);
  shown = { name, update: view.render(root, args) };
  shown.update?.(args);
  const focused = document.activeElement;
  if (byFragment && !root.contains(focused) && !focused?.closest("nav")) {
    main.focus({ preventScroll: true });
    if (!root.querySelector(".chosen-place")) scrollTo(0, 0);
  }
}

// A text on one line, with its spaces as they are.
const shownLine = (text) => text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, visible);

function start() {
  const text = source.length > 60 ? `${source.slice(0, 60)}…` : source;
  document.title = `${visible(text) || "empty text"} · nanochat inspect`;
  const part = (id) => document.getElementById(id);
  part("run").append(`${shownLine(facts.run)} · step ${facts.step} · `,
    el("q", {}, piece(shownLine(text))));
  part("about").append(...facts.sources.map((words) => el("p", {}, words)));
  part("nav").append(el("ul", {}, Object.entries(facts.views).map(([name, { title }]) =>
    el("li", {}, link(name, title, { "data-view": name })))));
  part("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the fragment is that of the view
    main.focus();
  });
  const buttons = { theme: ["auto", "light", "dark"], digits: ["short", "full", "exact"] };
  for (const [key, values] of Object.entries(buttons)) {
    const tell = () => {
      part(key).textContent = `${key === "theme" ? "Theme" : "Digits"}: ${state[key]}`;
    };
    part(key).addEventListener("click", () => {
      state[key] = values[(values.indexOf(state[key]) + 1) % values.length];
      tell();
      draw();
    });
    tell();
  }
  darkSystem.addEventListener("change", () => draw());
  addEventListener("hashchange", route);
  route();
}

window.nanochatPage = { facts, forward, gradient, passedOn }; // for tests
start();
