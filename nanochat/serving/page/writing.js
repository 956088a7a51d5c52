// A text that the model writes: {text, tokens, reason, seed, error}, its stream and its view.

const ALTERNATIVES = 8;
let running = null; // {stop}

const stopRunning = () => running?.stop();

// The options that have a value; the server checks them and has defaults for the others.
function givenOptions() {
  const given = Object.entries(state.options).filter(([, value]) => value !== null);
  return { ...Object.fromEntries(given), nanochat: { alternatives: ALTERNATIVES } };
}

// Let the model write into `writing`; `view` follows.
async function write(path, body, writing, view) {
  stopRunning();
  const controller = new AbortController(), me = { stop: () => controller.abort() };
  running = me;
  writing.reason = null;
  view.update();
  try {
    for await (const event of streamed(path, { ...givenOptions(), ...body }, controller.signal)) {
      const [choice] = event.choices;
      writing.seed = event.seed;
      writing.text += choice.text ?? choice.delta.content ?? "";
      writing.tokens.push(...(choice.nanochat?.tokens ?? []));
      writing.reason = choice.finish_reason;
      following(view.update);
    }
  } catch (error) {
    writing.reason = error instanceof Failure ? "failed" : "stopped";
    if (error instanceof Failure) writing.error = error.message;
    else if (error.name !== "AbortError") throw error;
  } finally {
    if (running === me) running = null;
    following(view.update);
    save();
  }
}

const newWriting = () => ({ text: "", tokens: [], reason: null, seed: null, error: null });

const ENDS = { stop: "the model ended the text", length: "reached max tokens", stopped: "stopped",
  failed: "failed" };

// A view of a writing with its buttons: Stop while it runs, `again` afterwards.
function writingView(writing, name, again) {
  const tokens = tokenView(writing, name), about = el("p", { class: "about" });
  const node = el("div", { class: "writing" }, tokens.node, about);
  let told = "";
  const update = () => {
    const isRunning = writing.reason === null;
    tokens.update(!isRunning);
    node.setAttribute("aria-busy", isRunning);
    const words = isRunning ? "writing" : writing.reason;
    if (words === told) return;
    told = words;
    const count = writing.tokens.length;
    about.replaceChildren(...(isRunning
      ? [button("Stop", stopRunning, { class: "stop", title: "Stop (Escape)" })]
      : [again && button("Regenerate", again), el("span", {}, [
        `${count} token${count === 1 ? "" : "s"}`, ENDS[writing.reason],
        writing.seed !== null && `seed ${writing.seed}`].filter(Boolean).join(" · "))]
        .filter(Boolean)));
    if (writing.error) {
      node.append(el("p", { class: "error", role: "alert" }, writing.error));
    }
  };
  update();
  return { node, update };
}
