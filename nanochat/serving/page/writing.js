// A text that the model writes, {text, tokens, reason, seed, error, left}, its stream and its view.
//   `left` counts the oldest messages that did not fit in the context window.

const ALTERNATIVES = 8;
let running = null; // {stop}

const stopRunning = () => running?.stop();

// The options that have a value; the server checks them and has defaults for the others.
function givenOptions() {
  const given = Object.entries(state.options).filter(([, value]) => value !== null);
  return { ...Object.fromEntries(given), nanochat: { alternatives: ALTERNATIVES } };
}

// Let the model write into `writing`; `view` follows. `shorter` makes another body of one that does
//   not fit in the context window.
async function write(path, body, writing, view, shorter = () => null) {
  stopRunning();
  hideToken();
  const controller = new AbortController(), me = { stop: () => controller.abort() };
  running = me;
  writing.reason = null;
  view.update();
  try {
    const asked = { ...givenOptions(), ...body };
    for await (const event of streamedIfShort(path, asked, shorter, controller.signal)) {
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

const newWriting = () => ({ text: "", tokens: [], reason: null, seed: null, error: null, left: 0 });

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
        writing.left > 0 && !writing.error
          && `context window full; left out: the oldest ${writing.left} messages`,
        writing.seed !== null && `seed ${writing.seed}`].filter(Boolean).join(" · "))]
        .filter(Boolean)));
    if (writing.error) {
      node.append(el("p", { class: "error", role: "alert" }, writing.error));
    }
  };
  update();
  return { node, update };
}
