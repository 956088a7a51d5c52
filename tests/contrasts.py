"""A script that measures the contrasts of a page in a browser."""

from __future__ import annotations

# Every element that has text itself, and the contrast of its color with what is behind it.
CONTRASTS = """() => {
  const channels = (color) => {
    const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number);
    return color.startsWith("rgb") ? [r / 255, g / 255, b / 255, a] : [r, g, b, a];
  };
  const light = (color) => {
    const [r, g, b] = channels(color)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (channels(color)[3] > 0.99) return color;
    }
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    if (!node.checkVisibility() || node.closest("svg, script, option, .skip")) continue;
    if (![...node.childNodes].some((one) => one.nodeType === 3 && one.data.trim())) continue;
    const pair = [getComputedStyle(node).color, behind(node)].map(light).sort((a, b) => b - a);
    found.push([(pair[0] + 0.05) / (pair[1] + 0.05), node.className + ": " + node.textContent]);
  }
  return found;
}"""
