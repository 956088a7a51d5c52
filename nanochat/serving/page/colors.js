// The colors of a loss, those of the page of `nanochat inspect`.

const stops = (text) => text.split(" ").map((hex) =>
  [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));

// Lightness alone orders them, as in cividis, so the color-blind can read them.
const SURPRISE = {
  light: stops("f5f2ea efe2b0 d9c46f b0a06f 7f7c76 4f5a70 203a66 00224e"),
  dark: stops("202634 123570 3b496c 575d6d 707173 8a8678 a59c74 c3b369 e1cc55 fee838"),
};
const darkSystem = matchMedia("(prefers-color-scheme: dark)");
const themeShown = () => {
  if (state.theme !== "auto") return state.theme;
  return darkSystem.matches ? "dark" : "light";
};

// A part of 0 … 1 to a color. What is small is close to the page's own color.
function surprise(part) {
  const colors = SURPRISE[themeShown()];
  const place = Math.min(Math.max(part, 0), 1) * (colors.length - 1);
  const i = Math.min(Math.floor(place), colors.length - 2);
  return colors[i].map((low, c) => Math.round(low + (colors[i + 1][c] - low) * (place - i)));
}

const css = (color) => `rgb(${color.join(" ")})`;

// Black or white, whichever is easier to read on a color: the contrast is at least 4.5.
function inkOn(color) {
  const [r, g, b] = color.map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
}

const painted = (part) => {
  const color = surprise(part);
  return { background: css(color), color: inkOn(color) };
};

function legend(ticks) {
  const colors = Array.from({ length: 21 }, (_, i) => css(surprise(i / 20))).join(", ");
  return el("div", { class: "legend", "aria-hidden": "true" },
    el("span", { class: "ramp", style: { background: `linear-gradient(90deg, ${colors})` } }),
    ticks.map(([part, text]) => el("span", { class: "tick",
      style: { left: `${100 * part}%`, transform: `translateX(${-100 * part}%)` } }, text)));
}
