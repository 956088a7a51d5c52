// View 7: the two principal components of the embeddings, the nearest neighbors, the positions.

function scatter({ points, label, named, name, choose, path }) {
  const edge = 30, narrow = innerWidth < 600, wide = narrow ? 360 : 640, high = narrow ? 360 : 420;
  const scale = (numbers, size) => {
    const low = numbers.reduce((a, b) => Math.min(a, b));
    const span = numbers.reduce((a, b) => Math.max(a, b)) - low || 1;
    return numbers.map((v) => edge + (size - 2 * edge) * (v - low) / span);
  };
  const xs = scale(points.map((p) => p[0]), wide);
  const ys = scale(points.map((p) => p[1]), high).map((y) => high - y);
  const labelOf = (i) => el("svg:text", { x: xs[i] + 7, y: ys[i] + 4 }, label(i));
  const dots = points.map((_, i) => el("svg:g", { class: "dot", onclick: () => choose(i, false) },
    el("svg:circle", { cx: xs[i], cy: ys[i], r: 4 }, el("svg:title", {}, label(i))),
    named(i) && labelOf(i)));
  let now = 0;
  const node = el("svg:svg", {
    viewBox: `0 0 ${wide} ${high}`, class: "map", tabindex: "0", role: "application",
    "aria-label": `${name}; arrow keys go through the points`,
    onkeydown: (event) => {
      const to = moved(event, now, points.length - 1);
      if (to !== undefined) choose((to + points.length) % points.length, true);
    },
  }, path && el("svg:path", { class: "line", d: `M${xs.map((x, i) => [x, ys[i]]).join("L")}` }),
  dots);
  const update = (chosen, near = []) => {
    now = chosen;
    const kind = (i) => (i === chosen ? "chosen" : near.includes(i) ? "near" : "");
    dots.forEach((dot, i) => dot.setAttribute("class", `dot ${kind(i)}`));
    for (const i of [...near, chosen]) {
      if (!dots[i].querySelector("text")) dots[i].append(labelOf(i));
      node.append(dots[i]);
    }
  };
  return { node, update };
}

VIEWS.embeddings = {
  render(root) {
    const { plane, neighbours, positions } = facts.embeddings;
    const inText = new Set([...facts.tokens, ...facts.targets]), few = plane.length <= 120;
    const panel = el("section", { class: "panel" }), label = (i) => pieceOf(i);
    const map = scatter({
      points: plane, label, name: "Map of the tokens", named: (i) => few || inText.has(i),
      choose: (i, replace) => go(`embeddings/id${i}`, replace) });
    fill(root, el("div", { class: "columns map-and-list" }, el("div", {}, map.node), panel));
    if (positions) {
      const where = scatter({
        points: positions, label: String, name: "Map of the positions", path: true,
        named: () => positions.length <= 64, choose: (i) => where.update(i) });
      where.update(0);
      fill(root, el("h2", {}, "Positions"), where.node);
    }
    return (words) => {
      const id = numbered(words, "id", plane.length, facts.tokens.at(-1)), near = neighbours[id];
      map.update(id, near.map(([other]) => other));
      panel.replaceChildren(el("h2", {}, "Nearest to ", piece(label(id))),
        table(["token", "", "cosine"], near.map(([other, cosine]) =>
          [link(`embeddings/id${other}`, piece(label(other))), bar(cosine), digits(fixed(cosine))]),
        { name: "Neighbors" }));
    };
  },
};
