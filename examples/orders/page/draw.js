// Small things to draw with: elements, amounts of money, and figures that run to their new value.

/** Whole cents as money. */
export const money = (cents, digits = 2) =>
  (cents / 100).toLocaleString("en", { style: "currency", currency: "CNY", currencyDisplay: "narrowSymbol", minimumFractionDigits: digits, maximumFractionDigits: digits });

export function element(tag, className, ...children) {
  const node = document.createElement(tag);
  node.className = className;
  node.append(...children);
  return node;
}

/** Lets a figure run to its new value. */
const shown = new Map();
export function figure(id, value, format) {
  const from = shown.get(id) ?? value;
  const begun = performance.now();
  shown.set(id, value);
  const step = (now) => {
    if (shown.get(id) !== value) return;
    const part = Math.min(1, Math.max(0, (now - begun) / 350));
    document.getElementById(id).textContent = format(part === 1 ? value : from + (value - from) * part);
    if (part < 1) requestAnimationFrame(step);
  };
  if (from === value) document.getElementById(id).textContent = format(value);
  else requestAnimationFrame(step);
}
