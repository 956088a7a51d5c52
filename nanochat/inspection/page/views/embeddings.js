// View 7: the two principal components of the embeddings, the nearest neighbors, the positions.

function scatter({ points, label, named, name, choose, path }) {
  const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]), edge = 30, wide = innerWidth < 600 ? 360 : 640, high = wide < 600 ? 360 : 420;
  const scale = (numbers, size) => {
    const low = numbers.reduce((a, b) => Math.min(a, b)), span = numbers.reduce((a, b) => Math.max(a, b)) - low || 1;
    return (v) => edge + (size - 2 * edge) * (v - low) / span;
  };
  const x = scale(xs, wide), y = (v) => high - scale(ys, high)(v), dots = points.map(([px, py], i) => el("svg:g", {
    class: "dot", onclick: () => choose(i, false),
  }, el("svg:circle", { cx: x(px), cy: y(py), r: 4 }, el("svg:title", {}, label(i))),
  named(i) && el("svg:text", { x: x(px) + 7, y: y(py) + 4 }, label(i))));
  let now = 0;
  const node = el("svg:svg", { viewBox: `0 0 ${wide} ${high}`, class: "map", tabindex: "0", role: "application", "aria-label": `${name}; arrow keys go through the points`,
    onkeydown: (event) => {
      const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      choose((now + by + points.length) % points.length, true);
    } }, path && el("svg:path", { class: "line", d: `M${points.map(([px, py]) => `${x(px)} ${y(py)}`).join("L")}` }), dots);
  const update = (chosen, near = []) => {
    now = chosen;
    dots.forEach((dot, i) => dot.setAttribute("class", `dot ${i === chosen ? "chosen" : near.includes(i) ? "near" : ""}`));
    for (const i of [...near, chosen]) {
      if (!dots[i].querySelector("text")) dots[i].append(el("svg:text", { x: x(xs[i]) + 7, y: y(ys[i]) + 4 }, label(i)));
      node.append(dots[i]);
    }
  };
  return { node, update };
}

VIEWS.embeddings = {
  title: "Embeddings",
  render(root, args) {
    const { plane, neighbours, positions } = facts.embeddings, inText = new Set([...facts.tokens, ...facts.targets]);
    const few = plane.length <= 120, label = (i) => pieceOf(i), panel = el("section", { class: "panel" });
    const map = scatter({
      points: plane, label, name: "Map of the tokens", named: (i) => few || inText.has(i),
      choose: (i, replace) => go(`embeddings/id${i}`, replace),
    });
    fill(root, el("h1", {}, "Embeddings"), el("p", { class: "lead" }, `The vectors of ${plane.length} tokens, seen along the two directions in which they differ most. Neighbors point the same way in all ${config.n_embd} dimensions, not only in these two.`),
      el("div", { class: "columns map-and-list" }, el("div", {}, map.node), panel));
    if (positions) {
      const where = scatter({ points: positions, label: String, name: "Map of the positions", named: () => positions.length <= 64, path: true, choose: (i) => where.update(i) });
      where.update(0);
      fill(root, el("h2", {}, "Positions"), where.node);
    }
    const update = (words) => {
      const id = numbered(words, "id", plane.length, facts.tokens.at(-1)), near = neighbours[id];
      map.update(id, near.map(([other]) => other));
      panel.replaceChildren(el("h2", {}, "Nearest to ", piece(label(id))), table(["token", "", "cosine"], near.map(([other, cosine]) =>
        [link(`embeddings/id${other}`, piece(label(other))), bar(cosine), el("span", { class: "n" }, fixed(cosine))]), { name: "Neighbors" }));
    };
    update(args);
    return update;
  },
};
