// How each number is computed, and its derivatives: one record per kind of operation.
//
//   steps     the formula of one output, with its terms
//   reads     the operands of one output, as [name, index]
//   users     the outputs that an operand goes into
//   local     d output / d operand: {value, of: the number that it is, text: what else it is}
//
// Of a number that a model file computes, none of them is known.

const EPSILON = 1e-5, ROPE_BASE = 10000;
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

// Queries and keys are normalized head by head.
function normalized(op, [t, i]) {
  const [x] = op.inputs, n = /\.[qk]_norm$/.test(op.name) ? facts.head_dim : columnsOf(x);
  const first = i - (i % n);
  return once(`${op.name}/${t}/${first}`, () => {
    const squares = range(first, first + n).map((j) => valueOf(x, [t, j]) ** 2);
    const mean = total(squares) / n;
    return { x, n, first, squares, mean, scale: (mean + EPSILON) ** -0.5 };
  });
}

function rotation(i, t) {
  const half = facts.head_dim / 2, place = i % facts.head_dim, pair = place % half;
  const angle = t * ROPE_BASE ** (-pair / half);
  return {
    half, pair, angle, first: place < half, partner: place < half ? i + half : i - half,
    cos: Math.cos(angle), sin: place < half ? Math.sin(angle) : -Math.sin(angle),
  };
}

// The operands of a softmax: its row, without the keys that a query does not see.
function softmaxRow(op, index) {
  const [x] = op.inputs, before = index.slice(0, -1);
  return once(`${op.name}/${before}`, () => {
    const end = before.length === 2 ? before[1] + 1 : columnsOf(op.name);
    const indices = range(0, end).map((j) => [...before, j]);
    const largest = Math.max(...indices.map((one) => valueOf(x, one)));
    const exps = indices.map((one) => Math.exp(valueOf(x, one) - largest));
    return { x, indices, largest, exps, sum: total(exps) };
  });
}

function countsShare(op, t) {
  const [x] = op.inputs;
  return once(`${op.name}/${t}`, () => {
    const last = columnsOf(x) - 1, logits = range(0, last).map((j) => valueOf(x, [t, j]));
    const largest = Math.max(...logits), exps = logits.map((one) => Math.exp(one - largest));
    const normalizer = largest + Math.log(total(exps)), { scale, offset, start } = facts.share;
    const gate = valueOf(x, [t, last]) + start - normalizer;
    const share = 1 / (1 + Math.exp(-(gate * scale + offset)));
    return { x, last, largest, exps, normalizer, gate, share, sum: total(exps) };
  });
}

function mixture(op, t) {
  const [p, s] = op.inputs, chosen = number(p, [t, facts.targets[t]]), share = number(s, [t]);
  const counted = facts.by_counts[t];
  return { chosen, share, counted, mixed: (1 - share.value) * chosen.value + share.value * counted };
}

// The rows that token t adds up: its own, those of earlier tokens, those of hashed n-grams.
function tableRows(t) {
  return once(`tables/${t}`, () => {
    const back = (count) => range(0, Math.min(count, t + 1));
    const rows = back(config.prev_token_tables + 1).map((k) => [k ? `wte${k}` : "wte", facts.tokens[t - k]]);
    if (!config.hash_embed_rows) return rows;
    let key = 0n;
    for (const k of back(config.hash_embed_longest)) {
      key = BigInt.asUintN(64, (key + BigInt(facts.tokens[t - k] + 1)) * 0x9e3779b97f4a7c15n);
      if (k) rows.push(["wte_ngram", Number(((key >> 32n) * BigInt(config.hash_embed_rows)) >> 32n)]);
    }
    return rows;
  });
}

const lookedUp = (op, t) => (op.weight === "wpe" ? t : facts.tokens[t]);

// A function of one number.
const elementwise = (formula, compute, derivative) => ({
  steps: (op, i) => {
    const x = number(op.inputs[0], i);
    return [step(`y = ${formula}, x = ${numberName(x.name, i)}`, compute(x.value), ["", "x", "y"],
      [row("", [x], compute(x.value))])];
  },
  reads: (op, i) => [[op.inputs[0], i]],
  users: (op, name, i) => [i],
  local: (op, out, name, i) => ({ value: derivative(valueOf(name, i)) }),
});

const KINDS = {
  lookup: {
    steps: (op, [t, i]) => {
      const w = number(op.weight, [lookedUp(op, t), i]);
      const what = op.weight === "wpe" ? `position ${t}` : `token id ${w.index[0]}`;
      return [step(`y = ${numberName(w.name, w.index)}: the row of ${what}`, w.value, ["", "W", "y"],
        [row("", [w], w.value)])];
    },
    reads: (op, [t, i]) => [[op.weight, [lookedUp(op, t), i]]],
    users: (op, name, [id, i]) => range(0, length).filter((t) => lookedUp(op, t) === id).map((t) => [t, i]),
    local: () => ({ value: 1 }),
  },
  tables: {
    steps: (op, [t, i]) => {
      const rows = tableRows(t).map(([name, id]) => number(name, [id, i]));
      return [step(`y = Σ of the rows that token ${t} looks up, column ${i}`, total(rows.map((w) => w.value)),
        ["row", "W", "term"], rows.map((w) => row(`${w.name}[${w.index[0]}]`, [w], w.value)))];
    },
    reads: (op, [t, i]) => tableRows(t).map(([name, id]) => [name, [id, i]]),
    users: (op, name, [id, i]) => range(0, length).flatMap((t) =>
      tableRows(t).filter(([table, at]) => table === name && at === id).map(() => [t, i])),
    local: () => ({ value: 1 }),
  },
  add: {
    steps: (op, i) => {
      const terms = op.inputs.map((name) => number(name, i));
      return [step(`y = ${terms.map((x) => numberName(x.name, i)).join(" + ")}`,
        total(terms.map((x) => x.value)), ["", "operand", "term"],
        terms.map((x) => row(x.name, [x], x.value)))];
    },
    reads: (op, i) => op.inputs.map((name) => [name, i]),
    users: (op, name, i) => [i],
    local: () => ({ value: 1 }),
  },
  rmsnorm: {
    steps: (op, [t, i]) => {
      const { x, n, first, squares, mean, scale } = normalized(op, [t, i]);
      const operand = number(x, [t, i]);
      return [
        step(`m = 1/${n} · Σⱼ ${x}[${t}, j]²`, mean, ["j", "x[t, j]", "square"],
          squares.map((square, k) => row(first + k, [number(x, [t, first + k])], square))),
        step(`s = (m + ${EPSILON})^(−1/2)`, scale),
        step(`y = ${x}[${t}, ${i}] · s`, operand.value * scale, ["", "x", "s", "y"],
          [row("", [operand, { value: scale }], operand.value * scale)]),
      ];
    },
    reads: (op, [t, i]) => {
      const { x, n, first } = normalized(op, [t, i]);
      return range(first, first + n).map((j) => [x, [t, j]]);
    },
    users: (op, name, [t, j]) => {
      const { n, first } = normalized(op, [t, j]);
      return range(first, first + n).map((i) => [t, i]);
    },
    local: (op, [t, i], name, [, j]) => {
      const { x, n, scale } = normalized(op, [t, i]);
      const through = valueOf(x, [t, i]) * valueOf(x, [t, j]) * scale ** 3 / n;
      return { value: i === j ? scale - through : -through,
        text: i === j ? "s − xᵢ² · s³/n" : "−xᵢ · xⱼ · s³/n" };
    },
  },
  linear: {
    steps: (op, [t, i]) => {
      const [x] = op.inputs, W = op.weight;
      const rows = range(0, columnsOf(x)).map((j) => {
        const w = number(W, [i, j]), operand = number(x, [t, j]);
        return row(j, [w, operand], w.value * operand.value);
      });
      return [step(`y = Σⱼ ${W}[${i}, j] · ${x}[${t}, j]`, total(rows.map((r) => r.value)),
        ["j", `W[${i}, j]`, `x[${t}, j]`, "product"], rows)];
    },
    reads: (op, [t, i]) => range(0, columnsOf(op.inputs[0])).flatMap((j) =>
      [[op.inputs[0], [t, j]], [op.weight, [i, j]]]),
    users: (op, name, [first]) => (name === op.weight
      ? range(0, length).map((t) => [t, first])
      : range(0, columnsOf(op.name)).map((i) => [first, i])),
    local: (op, [t, i], name, [, j]) => {
      const of = name === op.weight ? number(op.inputs[0], [t, j]) : number(op.weight, [i, j]);
      return { value: of.value, of };
    },
  },
  rotate: {
    steps: (op, [t, i]) => {
      const [x] = op.inputs, { angle, cos, sin, pair, half, partner, first } = rotation(i, t);
      const a = number(x, [t, i]), b = number(x, [t, partner]);
      return [
        step(`θ = ${t} · ${ROPE_BASE}^(−${pair}/${half})`, angle),
        step(first ? "y₁ = x₁ · cos θ + x₂ · sin θ" : "y₂ = x₂ · cos θ − x₁ · sin θ",
          a.value * cos + b.value * sin, ["", "x", "factor", "term"],
          [row("cos θ", [a, { value: cos }], a.value * cos),
            row(first ? "sin θ" : "−sin θ", [b, { value: sin }], b.value * sin)]),
      ];
    },
    reads: (op, [t, i]) => [i, rotation(i, t).partner].map((j) => [op.inputs[0], [t, j]]),
    users: (op, name, [t, i]) => [i, rotation(i, t).partner].map((j) => [t, j]),
    local: (op, [t, i], name, [, j]) => {
      const { cos, sin, first } = rotation(i, t);
      return i === j ? { value: cos, text: "cos θ" } : { value: sin, text: first ? "sin θ" : "−sin θ" };
    },
  },
  scores: {
    steps: (op, [h, q, k]) => {
      if (k > q) return [step("y = −∞: a query does not see the keys of later tokens", -Infinity)];
      const [query, key] = op.inputs, d = facts.head_dim;
      const rows = headColumns(h).map((j) => {
        const a = number(query, [q, j]), b = number(key, [k, j]);
        return row(j, [a, b], a.value * b.value);
      });
      const dot = total(rows.map((r) => r.value));
      return [step(`d = Σⱼ ${query}[${q}, j] · ${key}[${k}, j], j over the columns of head ${h}`, dot,
        ["j", "query", "key", "product"], rows), step(`y = d / √${d}`, dot / Math.sqrt(d))];
    },
    reads: (op, [h, q, k]) => (k > q ? [] : headColumns(h).flatMap((j) =>
      [[op.inputs[0], [q, j]], [op.inputs[1], [k, j]]])),
    users: (op, name, [token, j]) => (name === op.inputs[0]
      ? range(0, token + 1).map((k) => [headOf(j), token, k])
      : range(token, length).map((q) => [headOf(j), q, token])),
    local: (op, [, q, k], name, [, j]) => {
      const of = name === op.inputs[0] ? number(op.inputs[1], [k, j]) : number(op.inputs[0], [q, j]);
      return { value: of.value / Math.sqrt(facts.head_dim), of, text: `/ √${facts.head_dim}` };
    },
  },
  softmax: {
    steps: (op, index) => {
      const { x, indices, largest, exps, sum } = softmaxRow(op, index), i = index.at(-1);
      if (i >= indices.length) return [step("y = 0: a query does not see the keys of later tokens", 0)];
      return [
        step(`largest = maxⱼ ${x}[${[...index.slice(0, -1), "j"].join(", ")}]`, largest),
        step("z = Σⱼ exp(xⱼ − largest)", sum, ["j", "xⱼ", "exp(xⱼ − largest)"],
          indices.map((one, j) => row(j, [number(x, one)], exps[j]))),
        step(`y = exp(x − largest) / z, x = ${numberName(x, index)}`, exps[i] / sum, ["", "x", "y"],
          [row("", [number(x, index)], exps[i] / sum)]),
      ];
    },
    reads: (op, index) => {
      const { x, indices } = softmaxRow(op, index);
      return index.at(-1) < indices.length ? indices.map((one) => [x, one]) : [];
    },
    users: (op, name, index) => {
      const { indices } = softmaxRow(op, index);
      return index.at(-1) < indices.length ? indices : [];
    },
    local: (op, out, name, index) => {
      const y = valueOf(op.name, out), other = valueOf(op.name, index);
      const same = out.at(-1) === index.at(-1);
      return { value: same ? y * (1 - y) : -y * other, text: same ? "yᵢ · (1 − yᵢ)" : "−yᵢ · yⱼ" };
    },
  },
  mix: {
    steps: (op, [q, i]) => {
      const [weights, v] = op.inputs, h = headOf(i);
      const rows = range(0, q + 1).map((k) => {
        const w = number(weights, [h, q, k]), x = number(v, [k, i]);
        return row(k, [w, x], w.value * x.value);
      });
      return [step(`y = Σₖ ${weights}[${h}, ${q}, k] · ${v}[k, ${i}], k over the tokens so far`,
        total(rows.map((r) => r.value)), ["k", "weight", "value", "product"], rows)];
    },
    reads: (op, [q, i]) => range(0, q + 1).flatMap((k) =>
      [[op.inputs[0], [headOf(i), q, k]], [op.inputs[1], [k, i]]]),
    users: (op, name, index) => {
      if (name === op.inputs[1]) return range(index[0], length).map((q) => [q, index[1]]);
      return index[2] > index[1] ? [] : headColumns(index[0]).map((i) => [index[1], i]);
    },
    local: (op, [q, i], name, index) => {
      const of = name === op.inputs[0]
        ? number(op.inputs[1], [index[2], i]) : number(op.inputs[0], [headOf(i), q, index[0]]);
      return { value: of.value, of };
    },
  },
  relu: elementwise("max(x, 0)", (x) => Math.max(x, 0), (x) => (x > 0 ? 1 : 0)),
  relu2: elementwise("max(x, 0)²", (x) => Math.max(x, 0) ** 2, (x) => 2 * Math.max(x, 0)),
  cap: elementwise(`${config.logit_softcap} · tanh(x / ${config.logit_softcap})`,
    (x) => config.logit_softcap * Math.tanh(x / config.logit_softcap),
    (x) => 1 - Math.tanh(x / config.logit_softcap) ** 2),
  share: {
    steps: (op, [t]) => {
      const { x, last, exps, largest, normalizer, gate, share } = countsShare(op, t);
      const { scale, offset, start } = facts.share;
      return [
        step(`n = log Σⱼ exp(${x}[${t}, j]), j over the tokens; the largest logit is ${rounded(largest, 5)}`,
          normalizer, ["j", "xⱼ", "exp(xⱼ − largest)"],
          exps.map((one, j) => row(j, [number(x, [t, j])], one))),
        step(`gate = ${x}[${t}, ${last}] + ${shortest(start)} − n`, gate, ["", "x", "gate"],
          [row("", [number(x, [t, last])], gate)]),
        step(`y = sigmoid(${shortest(scale)} · gate + ${shortest(offset)})`, share),
      ];
    },
    reads: (op, [t]) => range(0, columnsOf(op.inputs[0])).map((j) => [op.inputs[0], [t, j]]),
    users: (op, name, [t]) => [[t]],
    local: (op, [t], name, [, j]) => {
      const { last, exps, share, sum } = countsShare(op, t);
      const slope = share * (1 - share) * facts.share.scale;
      return { value: j === last ? slope : -slope * exps[j] / sum,
        text: j === last ? "y · (1 − y) · scale" : "−y · (1 − y) · scale · softmaxⱼ" };
    },
  },
  nats: {
    steps: (op, [t]) => {
      const p = number(op.inputs[0], [t, facts.targets[t]]), nats = -Math.log(p.value);
      return [step(`y = −log ${numberName(p.name, p.index)}: the probability of the target`, nats,
        ["", "p", "y"], [row("", [p], nats)])];
    },
    reads: (op, [t]) => [[op.inputs[0], [t, facts.targets[t]]]],
    users: (op, name, [t, j]) => (j === facts.targets[t] ? [[t]] : []),
    local: (op, out, name, index) => ({ value: -1 / valueOf(name, index), text: "−1 / p" }),
  },
  mixed_nats: {
    steps: (op, [t]) => {
      const { chosen, share, counted, mixed } = mixture(op, t);
      return [
        step("m = (1 − s) · p + s · c, s = share of the counts, c = their probability of the target",
          mixed, ["", "number", "term"], [
            row("(1 − s) · p", [chosen], (1 - share.value) * chosen.value),
            row(`s · c, c = ${shortest(counted)}`, [share], share.value * counted),
          ]),
        step("y = −log m", -Math.log(mixed)),
      ];
    },
    reads: (op, [t]) => [[op.inputs[0], [t, facts.targets[t]]], [op.inputs[1], [t]]],
    users: (op, name, [t, j]) => (name === op.inputs[1] || j === facts.targets[t] ? [[t]] : []),
    local: (op, [t], name) => {
      const { chosen, share, counted, mixed } = mixture(op, t);
      return name === op.inputs[0] ? { value: -(1 - share.value) / mixed, text: "−(1 − s) / m" }
        : { value: (chosen.value - counted) / mixed, text: "(p − c) / m" };
    },
  },
};

// Computed by a model file: its operands and its formula are not known.
KINDS.own = { steps: () => [], reads: () => [], users: () => [], local: () => ({ value: 0 }) };

const usesWeight = (op, name) => op.weight === name
  || (op.kind === "tables" && /^wte(\d+|_ngram)$/.test(name));

const whole = Object.keys(facts.weights).length > 0; // every array and weight is in the page

// How the value of a number is computed: its steps; the last one's value next to the engine's.
function forward(name, index) {
  const op = operations.get(name), engine = valueOf(name, index);
  if (!op || !whole) return { steps: [], value: engine, engine };
  const steps = KINDS[op.kind].steps(op, index);
  if (!steps.length) return { steps, value: engine, engine };
  return { steps, value: steps.at(-1).value, engine };
}

// d loss / d number: one term per number that it goes into, local derivative · upstream gradient.
function gradient(name, index) {
  const terms = [], engine = gradientOf(name, index);
  for (const op of facts.operations) {
    if (!op.inputs.includes(name) && !usesWeight(op, name)) continue;
    for (const out of KINDS[op.kind].users(op, name, index)) {
      const local = KINDS[op.kind].local(op, out, name, index), upstream = gradientOf(op.name, out);
      terms.push({ name: op.name, index: out, local, upstream, value: local.value * upstream });
    }
  }
  if (name === "losses") {
    terms.push({ name: null, local: { value: 1 / length, text: "1 / tokens" }, upstream: 1, value: 1 / length });
  }
  const rest = engine - total(terms.map((term) => term.value));
  if (facts.model_file && Math.abs(rest) > 1e-5 * Math.max(Math.abs(engine), ...terms.map((term) => Math.abs(term.value)))) {
    terms.push({ name: null, file: facts.model_file, local: { value: rest, text: "the rest" }, upstream: 1, value: rest });
  }
  return { terms, value: total(terms.map((term) => term.value)), engine };
}

// What the gradient of a number adds to the gradients of its operands.
function passedOn(name, index) {
  const op = operations.get(name);
  if (!op) return [];
  const upstream = gradientOf(name, index);
  return KINDS[op.kind].reads(op, index).map(([operand, place]) => {
    const local = KINDS[op.kind].local(op, index, operand, place);
    return { name: operand, index: place, local, value: local.value * upstream, all: gradientOf(operand, place) };
  });
}
