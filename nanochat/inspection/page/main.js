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

function words() {
  try {
    return location.hash.slice(1).split("/").map(decodeURIComponent);
  } catch {
    return [];
  }
}

// The number of a word such as token5, between 0 and count − 1; `otherwise` if there is none.
function numbered(args, word, count, otherwise) {
  const found = args.map((arg) => new RegExp(`^${word}(\\d+)$`).exec(arg)).find(Boolean);
  return found && Number(found[1]) < count ? Number(found[1]) : otherwise;
}

function route(event) {
  const [first, ...args] = words();
  const name = Object.hasOwn(VIEWS, first) ? first : "loss";
  if (shown?.name === name && shown.update) shown.update(args);
  else draw(name, args, event !== undefined);
  const tab = VIEWS[name].tab ?? name;
  for (const a of document.querySelectorAll("nav a")) {
    if (a.dataset.view !== tab) a.removeAttribute("aria-current");
    else {
      a.setAttribute("aria-current", "page");
      const nav = a.closest("nav"); // a row that scrolls on a narrow screen
      nav.scrollLeft = a.offsetLeft - (nav.clientWidth - a.offsetWidth) / 2;
    }
  }
}

function draw(name, args, moved) {
  document.documentElement.dataset.theme = isDark() ? "dark" : "light";
  const root = el("div", { class: `view ${name}` });
  main.replaceChildren(root);
  shown = { name, update: null };
  const update = VIEWS[name].render(root, args);
  shown.update = update ?? null;
  if (moved && !root.contains(document.activeElement) && !document.activeElement?.closest("nav")) {
    main.focus({ preventScroll: true });
    if (!root.querySelector(".chosen-place")) scrollTo(0, 0);
  }
}

function redraw() {
  const [first, ...args] = words();
  draw(Object.hasOwn(VIEWS, first) ? first : "loss", args, false);
}

const numbersShown = () => (facts.engine === "scalar"
  ? `These numbers are bit-identical to the scalar engine’s exact numerics in ${facts.dtype}: one operation per number, in microgpt’s order. A record of training has the numbers of its own numerics.`
  : `These numbers are those of the plain torch model in ${facts.dtype}. The kernels of a training step sum in another order, so theirs may differ by rounding.`);

// A text on one line, with its spaces as they are.
const shownLine = (text) => text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, visible);

function start() {
  const text = source.length > 60 ? `${source.slice(0, 60)}…` : source;
  document.title = `${visible(text) || "empty text"} · nanochat inspect`;
  document.getElementById("run").append(`${shownLine(facts.run)} · step ${facts.step} · `, el("q", {}, piece(shownLine(text))));
  document.getElementById("about").append(el("p", {}, numbersShown()),
    el("p", {}, "Formulas, sums and differences are computed by this page in float64. It asks nothing of any server."));
  document.getElementById("nav").append(el("ul", {}, Object.entries(VIEWS).filter(([, view]) => view.title).map(([name, view]) =>
    el("li", {}, link(name, view.title, { "data-view": name })))));
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the fragment is that of the view
    main.focus();
  });
  const buttons = { theme: ["auto", "light", "dark"], digits: DIGITS };
  for (const [key, values] of Object.entries(buttons)) {
    const button = document.getElementById(key), tell = () => {
      button.textContent = `${key === "theme" ? "Theme" : "Digits"}: ${state[key]}`;
    };
    button.addEventListener("click", () => {
      state[key] = values[(values.indexOf(state[key]) + 1) % values.length];
      tell();
      redraw();
    });
    tell();
  }
  darkSystem.addEventListener("change", redraw);
  addEventListener("hashchange", route);
  route();
}

window.nanochatPage = { facts, forward, gradient, passedOn, valueOf, gradientOf, shortest, exactly };
start();
