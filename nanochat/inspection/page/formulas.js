// How each number is computed, and its derivatives: one record per kind of operation.
//
//   steps     the formula of one output, with its terms
//   reads     the operands of one output, as [name, index]
//   users     the outputs that an operand goes into
//   local     d output / d operand: {value, of: the number that it is, text: what else it is}
//
// Of a number that a model file computes, none of them is known.

const EPSILON = 1e-5, ROPE_BASE = 10000, CAP = facts.logit_softcap;
const total = (numbers) => numbers.reduce((sum, x) => sum + x, 0); // from left to right
const number = (name, index) => ({ name, index, value: valueOf(name, index) });
const headOf = (column) => Math.floor(column / facts.head_dim);
const headColumns = (head) => range(head * facts.head_dim, (head + 1) * facts.head_dim);
const columnsOf = (name) => arrayOf(name).shape.at(-1);
const remembered = new Map();

function once(key, compute) {
  if (!remembered.has(key)) remembered.set(key, compute());
  return remembered.get(key);
}

// A step: a formula in symbols, the columns and rows of its terms, and its value.
const step = (formula, value, columns = [], rows = []) => ({ formula, value, columns, rows });
const row = (label, operands, value) => ({ label, operands, value });
const valuesOf = (terms) => terms.map((term) => term.value);
const sumStep = (formula, columns, rows) => step(formula, total(valuesOf(rows)), columns, rows);
const stepOfOne = (formula, x, y) => step(formula, y, ["", "x", "y"], [row("", [x], y)]);

// Queries and keys are normalized head by head.
function normalized(op, [t, i]) {
  const [x] = op.inputs, n = /\.[qk]_norm$/.test(op.name) ? facts.head_dim : columnsOf(x);
  const first = i - (i % n);
  return once(`${op.name}/${t}/${first}`, () => {
    const columns = range(first, first + n), squares = columns.map((j) => valueOf(x, [t, j]) ** 2);
    const mean = total(squares) / n;
    return { x, n, first, columns, squares, mean, scale: (mean + EPSILON) ** -0.5 };
  });
}

function rotation(i, t) {
  const half = facts.head_dim / 2, place = i % facts.head_dim, pair = place % half;
  const first = place < half, angle = t * ROPE_BASE ** (-pair / half);
  return {
    half, pair, angle, first, partner: first ? i + half : i - half, cos: Math.cos(angle),
    sin: first ? Math.sin(angle) : -Math.sin(angle), sinText: first ? "sin θ" : "−sin θ" };
}

function exponentials(numbers) {
  const largest = Math.max(...numbers), exps = numbers.map((x) => Math.exp(x - largest));
  return { largest, exps, sum: total(exps) };
}

const expRows = (indices, x, exps) => indices.map((one, j) => row(j, [number(x, one)], exps[j]));

// The operands of a softmax: its row, without the keys that a query does not see.
function softmaxRow(op, index) {
  const [x] = op.inputs, before = index.slice(0, -1);
  return once(`${op.name}/${before}`, () => {
    const end = before.length === 2 ? before[1] + 1 : columnsOf(op.name);
    const indices = range(0, end).map((j) => [...before, j]);
    return { x, indices, ...exponentials(indices.map((one) => valueOf(x, one))) };
  });
}

function countsShare(op, t) {
  const [x] = op.inputs;
  return once(`${op.name}/${t}`, () => {
    const last = columnsOf(x) - 1, indices = range(0, last).map((j) => [t, j]);
    const found = exponentials(indices.map((one) => valueOf(x, one)));
    const normalizer = found.largest + Math.log(found.sum), { scale, offset, start } = facts.share;
    const gate = valueOf(x, [t, last]) + start - normalizer;
    const share = 1 / (1 + Math.exp(-(gate * scale + offset)));
    return { x, last, indices, normalizer, gate, share, ...found };
  });
}

function mixture(op, t) {
  const [p, s] = op.inputs, chosen = number(p, [t, facts.targets[t]]), share = number(s, [t]);
  const counted = facts.by_counts[t], part = share.value;
  return { chosen, share, counted, mixed: (1 - part) * chosen.value + part * counted };
}

// The rows that token t adds up, as [table, row].
const tableRows = (t) => facts.table_rows[t];
const lookedUp = (op, t) => (op.weight === "wpe" ? t : facts.tokens[t]);

// A function of one number.
const elementwise = (formula, compute, derivative) => ({
  steps: (op, i) => {
    const x = number(op.inputs[0], i);
    return [stepOfOne(`y = ${formula}, x = ${numberName(x.name, i)}`, x, compute(x.value))];
  },
  reads: (op, i) => [[op.inputs[0], i]],
  users: (op, name, i) => [i],
  local: (op, out, name, i) => ({ value: derivative(valueOf(name, i)) }),
});

// A sum of numbers, which `reads` lists.
const sumOf = (formula, reads, users) => ({
  steps: (op, out) => {
    const terms = reads(op, out).map(([name, index]) => number(name, index));
    return [sumStep(formula(op, out, terms), ["row", "x", "term"],
      terms.map((x) => row(`${x.name}[${x.index[0]}]`, [x], x.value)))];
  },
  reads,
  users,
  local: () => ({ value: 1 }),
});

// A sum of products: over(op, out) lists its j, pair(op, out, j) the two operands of one, and
// which(op, name, index) finds the j of an operand.
const products = ({ formula, columns, over, pair, which, users }) => ({
  steps: (op, out) => [sumStep(formula(op, out), columns(out), over(op, out).map((j) => {
    const [a, b] = pair(op, out, j).map((one) => number(...one));
    return row(j, [a, b], a.value * b.value);
  }))],
  reads: (op, out) => over(op, out).flatMap((j) => pair(op, out, j)),
  users,
  local: (op, out, name, index) => {
    const [a, b] = pair(op, out, which(op, name, index)), of = number(...(a[0] === name ? b : a));
    return { value: of.value, of };
  },
});

const dot = products({
  formula: ({ inputs: [query, key] }, [h, q, k]) =>
    `d = Σⱼ ${query}[${q}, j] · ${key}[${k}, j], j over the columns of head ${h}`,
  columns: () => ["j", "query", "key", "product"],
  over: (op, [h, q, k]) => (k > q ? [] : headColumns(h)),
  pair: ({ inputs: [query, key] }, [, q, k], j) => [[query, [q, j]], [key, [k, j]]],
  which: (op, name, [, j]) => j,
  users: (op, name, [token, j]) => (name === op.inputs[0]
    ? range(0, token + 1).map((k) => [headOf(j), token, k])
    : range(token, length).map((q) => [headOf(j), q, token])),
});

const KINDS = {
  lookup: sumOf((op, [t], [w]) => `y = ${numberName(w.name, w.index)}: the row of ${
      op.weight === "wpe" ? `position ${t}` : `token id ${w.index[0]}`}`,
    (op, [t, i]) => [[op.weight, [lookedUp(op, t), i]]], (op, name, [id, i]) =>
      range(0, length).filter((t) => lookedUp(op, t) === id).map((t) => [t, i])),
  tables: sumOf((op, [t, i]) => `y = Σ of the rows that token ${t} looks up, column ${i}`,
    (op, [t, i]) => tableRows(t).map(([name, id]) => [name, [id, i]]),
    (op, name, [id, i]) => range(0, length).flatMap((t) =>
      tableRows(t).filter(([table, at]) => table === name && at === id).map(() => [t, i]))),
  add: sumOf((op, i) => `y = ${op.inputs.map((name) => numberName(name, i)).join(" + ")}`,
    (op, i) => op.inputs.map((name) => [name, i]), (op, name, i) => [i]),
  rmsnorm: {
    steps: (op, [t, i]) => {
      const { x, n, columns, squares, mean, scale } = normalized(op, [t, i]);
      const operand = number(x, [t, i]), y = operand.value * scale;
      return [step(`m = 1/${n} · Σⱼ ${x}[${t}, j]²`, mean, ["j", "x[t, j]", "square"],
          columns.map((j, k) => row(j, [number(x, [t, j])], squares[k]))),
        step(`s = (m + ${EPSILON})^(−1/2)`, scale),
        step(`y = ${x}[${t}, ${i}] · s`, y, ["", "x", "s", "y"],
          [row("", [operand, { value: scale }], y)])];
    },
    reads: (op, [t, i]) => normalized(op, [t, i]).columns.map((j) => [op.inputs[0], [t, j]]),
    users: (op, name, [t, j]) => normalized(op, [t, j]).columns.map((i) => [t, i]),
    local: (op, [t, i], name, [, j]) => {
      const { x, n, scale } = normalized(op, [t, i]);
      const through = valueOf(x, [t, i]) * valueOf(x, [t, j]) * scale ** 3 / n;
      return i === j ? { value: scale - through, text: "s − xᵢ² · s³/n" }
        : { value: -through, text: "−xᵢ · xⱼ · s³/n" };
    },
  },
  linear: products({
    formula: (op, [t, i]) => `y = Σⱼ ${op.weight}[${i}, j] · ${op.inputs[0]}[${t}, j]`,
    columns: ([t, i]) => ["j", `W[${i}, j]`, `x[${t}, j]`, "product"],
    over: (op) => range(0, columnsOf(op.inputs[0])),
    pair: (op, [t, i], j) => [[op.weight, [i, j]], [op.inputs[0], [t, j]]],
    which: (op, name, [, j]) => j,
    users: (op, name, [first]) => (name === op.weight ? range(0, length).map((t) => [t, first])
      : range(0, columnsOf(op.name)).map((i) => [first, i])) }),
  rotate: {
    steps: (op, [t, i]) => {
      const { angle, cos, sin, sinText, pair, half, partner, first } = rotation(i, t);
      const [a, b] = [i, partner].map((j) => number(op.inputs[0], [t, j]));
      return [step(`θ = ${t} · ${ROPE_BASE}^(−${pair}/${half})`, angle),
        sumStep(first ? "y₁ = x₁ · cos θ + x₂ · sin θ" : "y₂ = x₂ · cos θ − x₁ · sin θ",
          ["", "x", "factor", "term"], [row("cos θ", [a, { value: cos }], a.value * cos),
            row(sinText, [b, { value: sin }], b.value * sin)])];
    },
    reads: (op, [t, i]) => [i, rotation(i, t).partner].map((j) => [op.inputs[0], [t, j]]),
    users: (op, name, [t, i]) => [i, rotation(i, t).partner].map((j) => [t, j]),
    local: (op, [t, i], name, [, j]) => {
      const { cos, sin, sinText } = rotation(i, t);
      return i === j ? { value: cos, text: "cos θ" } : { value: sin, text: sinText };
    },
  },
  scores: {
    ...dot,
    steps: (op, [h, q, k]) => {
      if (k > q) return [step("y = −∞: a query does not see the keys of later tokens", -Infinity)];
      const [sum] = dot.steps(op, [h, q, k]), d = facts.head_dim;
      return [sum, step(`y = d / √${d}`, sum.value / Math.sqrt(d))];
    },
    local: (op, out, name, index) => {
      const { of } = dot.local(op, out, name, index), d = facts.head_dim;
      return { value: of.value / Math.sqrt(d), of, text: `/ √${d}` };
    },
  },
  softmax: {
    steps: (op, index) => {
      const { x, indices, largest, exps, sum } = softmaxRow(op, index), i = index.at(-1);
      const later = "y = 0: a query does not see the keys of later tokens";
      return i >= indices.length ? [step(later, 0)] : [
        step(`largest = maxⱼ ${x}[${[...index.slice(0, -1), "j"].join(", ")}]`, largest),
        step("z = Σⱼ exp(xⱼ − largest)", sum, ["j", "xⱼ", "exp(xⱼ − largest)"],
          expRows(indices, x, exps)),
        stepOfOne(`y = exp(x − largest) / z, x = ${numberName(x, index)}`, number(x, index),
          exps[i] / sum)];
    },
    reads: (op, index) => KINDS.softmax.users(op, null, index).map((one) => [op.inputs[0], one]),
    users: (op, name, index) => {
      const { indices } = softmaxRow(op, index);
      return index.at(-1) < indices.length ? indices : [];
    },
    local: (op, out, name, index) => {
      const y = valueOf(op.name, out), other = valueOf(op.name, index);
      return out.at(-1) === index.at(-1) ? { value: y * (1 - y), text: "yᵢ · (1 − yᵢ)" }
        : { value: -y * other, text: "−yᵢ · yⱼ" };
    },
  },
  mix: products({
    formula: ({ inputs: [weights, v] }, [q, i]) =>
      `y = Σₖ ${weights}[${headOf(i)}, ${q}, k] · ${v}[k, ${i}], k over the tokens so far`,
    columns: () => ["k", "weight", "value", "product"],
    over: (op, [q]) => range(0, q + 1),
    pair: ({ inputs: [weights, v] }, [q, i], k) => [[weights, [headOf(i), q, k]], [v, [k, i]]],
    which: (op, name, index) => (name === op.inputs[0] ? index[2] : index[0]),
    users: (op, name, index) => {
      if (name === op.inputs[1]) return range(index[0], length).map((q) => [q, index[1]]);
      return index[2] > index[1] ? [] : headColumns(index[0]).map((i) => [index[1], i]);
    },
  }),
  relu: elementwise("max(x, 0)", (x) => Math.max(x, 0), (x) => (x > 0 ? 1 : 0)),
  relu2: elementwise("max(x, 0)²", (x) => Math.max(x, 0) ** 2, (x) => 2 * Math.max(x, 0)),
  cap: elementwise(`${CAP} · tanh(x / ${CAP})`, (x) => CAP * Math.tanh(x / CAP),
    (x) => 1 - Math.tanh(x / CAP) ** 2),
  share: {
    steps: (op, [t]) => {
      const { x, last, indices, exps, largest, normalizer, gate, share } = countsShare(op, t);
      const { scale, offset, start } = facts.share;
      return [step(`n = log Σⱼ exp(${x}[${t}, j]), j over the tokens; the largest logit is ${
          rounded(largest, 5)}`, normalizer, ["j", "xⱼ", "exp(xⱼ − largest)"],
        expRows(indices, x, exps)), stepOfOne(`gate = ${x}[${t}, ${last}] + ${shortest(start)} − n`,
          number(x, [t, last]), gate),
        step(`y = sigmoid(${shortest(scale)} · gate + ${shortest(offset)})`, share)];
    },
    reads: (op, [t]) => range(0, columnsOf(op.inputs[0])).map((j) => [op.inputs[0], [t, j]]),
    users: (op, name, [t]) => [[t]],
    local: (op, [t], name, [, j]) => {
      const { last, exps, share, sum } = countsShare(op, t);
      const slope = share * (1 - share) * facts.share.scale;
      return j === last ? { value: slope, text: "y · (1 − y) · scale" }
        : { value: -slope * exps[j] / sum, text: "−y · (1 − y) · scale · softmaxⱼ" };
    },
  },
  nats: {
    steps: (op, [t]) => {
      const p = number(op.inputs[0], [t, facts.targets[t]]);
      return [stepOfOne(`y = −log ${numberName(p.name, p.index)}: the probability of the target`, p,
        -Math.log(p.value))];
    },
    reads: (op, [t]) => [[op.inputs[0], [t, facts.targets[t]]]],
    users: (op, name, [t, j]) => (j === facts.targets[t] ? [[t]] : []),
    local: (op, out, name, index) => ({ value: -1 / valueOf(name, index), text: "−1 / p" }) },
  mixed_nats: {
    steps: (op, [t]) => {
      const { chosen, share, counted, mixed } = mixture(op, t);
      return [
        sumStep("m = (1 − s) · p + s · c, s = share of the counts, c = what they give the target",
          ["", "number", "term"], [row("(1 − s) · p", [chosen], (1 - share.value) * chosen.value),
            row(`s · c, c = ${shortest(counted)}`, [share], share.value * counted)]),
        step("y = −log m", -Math.log(mixed))];
    },
    reads: (op, [t]) => [[op.inputs[0], [t, facts.targets[t]]], [op.inputs[1], [t]]],
    users: (op, name, [t, j]) => (name === op.inputs[1] || j === facts.targets[t] ? [[t]] : []),
    local: (op, [t], name) => {
      const { chosen, share, counted, mixed } = mixture(op, t);
      return name === op.inputs[0] ? { value: -(1 - share.value) / mixed, text: "−(1 − s) / m" }
        : { value: (chosen.value - counted) / mixed, text: "(p − c) / m" };
    },
  },
  // Computed by a model file: its operands and its formula are not known.
  own: { steps: () => [], reads: () => [], users: () => [], local: () => ({ value: 0 }) },
};

const usesWeight = (op, name) => op.weight === name
  || (op.kind === "tables" && /^wte(\d+|_ngram)$/.test(name));

const whole = Object.keys(facts.weights).length > 0; // every array and weight is in the page

// How the value of a number is computed: its steps; the last one's value next to the engine's.
function forward(name, index) {
  const op = operations.get(name), engine = valueOf(name, index);
  const known = op?.inputs.every((input) => arrayOf(input)) && (!op.weight || isWeight(op.weight));
  const steps = known ? KINDS[op.kind].steps(op, index) : [];
  return { steps, value: steps.length ? steps.at(-1).value : engine, engine };
}

// d loss / d number: one term per number that it goes into, local derivative · upstream gradient.
function gradient(name, index) {
  const terms = [], engine = gradientOf(name, index);
  for (const op of facts.operations) {
    if (!op.inputs.includes(name) && !usesWeight(op, name)) continue;
    for (const out of KINDS[op.kind].users(op, name, index)) {
      const local = KINDS[op.kind].local(op, out, name, index), upstream = gradientOf(op.name, out);
      terms.push({ name: op.name, index: out, local, value: local.value * upstream });
    }
  }
  const add = (value, text, file) => terms.push({ file, local: { value, text }, value });
  if (name === "losses") add(1 / length, "1 / tokens");
  const rest = engine - total(valuesOf(terms));
  const size = Math.max(Math.abs(engine), largestOf(valuesOf(terms)));
  if (facts.model_file && Math.abs(rest) > 1e-5 * size) add(rest, "the rest", facts.model_file);
  return { terms, value: total(valuesOf(terms)), engine };
}

// What the gradient of a number adds to the gradients of its operands.
function passedOn(name, index) {
  const op = operations.get(name);
  if (!op) return [];
  const upstream = gradientOf(name, index);
  return KINDS[op.kind].reads(op, index).map(([operand, place]) => {
    const local = KINDS[op.kind].local(op, index, operand, place);
    return { name: operand, index: place, local, value: local.value * upstream };
  });
}
